"""The rules of the starter pack on the examples of the data recipe, and its writers on small inputs."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starter_pack import glosses, groups, items, pictures, rules, writer


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("animals/bat.png", True),
        ("computer/hardware/mouse.png", True),
        ("computer/icons/mouse.png", False),
        ("people/clothing/hats/hat.png", True),
        ("people/chef.png", False),
        ("tools/axe.png", True),
        ("tools/weapons/axe.png", False),
        ("transportation/hummer_01.png", False),
        ("transportation/boating/boating_rules2.png", False),
        ("recreation/sports/sport_1.png", False),
        ("recreation/games/cards/ace.png", False),
        ("recreation/games/dice/die.png", True),
        ("signs_and_symbols/flags/a.png", False),
        ("animals.png", False),
    ],
)
def test_folders(path: str, taken: bool) -> None:
    assert rules.is_taken(path) is taken


@pytest.mark.parametrize(
    ("path", "forbidden"),
    [
        ("food/apple.png", False),
        ("recreation/holiday/apple.png", False),
        ("recreation/games/cards/apple.png", False),
        ("computer/mouse.png", False),
        ("unsorted/apple.png", False),
        ("computer/icons/mouse.png", True),
        ("recreation/religion/apple.png", True),
        ("people/apple.png", True),
        ("tools/weapons/axe.png", True),
    ],
)
def test_aliases(path: str, forbidden: bool) -> None:
    assert rules.is_forbidden_alias(path) is forbidden


def test_keywords_are_lower_case_unique_and_at_most_six() -> None:
    raw = ["Protein", "food", "FOOD", "clip art", "png", "hash", "0x89c79d4f", "11", "Architetto Francesco Rollandin"]
    assert rules.clean_keywords(raw) == ["protein", "food"]
    assert rules.clean_keywords(["a, b", "c", "d", "e", "f", "g"]) == ["a", "b", "c", "d", "e", "f"]
    assert rules.clean_keywords(["caf&amp;eacute;", "http://a.b"]) == ["café"]


def test_blocked_keywords_and_the_exception_of_garments() -> None:
    assert rules.has_blocked_keyword("animals/mermaid", ["mermaid", "woman"])
    assert rules.has_blocked_keyword("food/chef", ["people"])
    assert not rules.has_blocked_keyword("people/clothing/hat", ["people", "hat"])
    assert rules.has_blocked_keyword("people/clothing/hat", ["people", "woman"])


@pytest.mark.parametrize("text", ["tools/gun_01", "Bread: Communion", "communism", "a-tank", "golf flag", "Cross."])
def test_block_words_match(text: str) -> None:
    assert rules.has_block_word("animals/cat", text)


@pytest.mark.parametrize(
    "text",
    ["Mante religieuse", "horse_christoph_b", "crossing bushes", "Gundula", "tankard", "lass", "godwit", "flagon"],
)
def test_block_words_are_whole_words(text: str) -> None:
    assert not rules.has_block_word(text)


@pytest.mark.parametrize(
    ("title", "path", "author", "expected"),
    [
        ("Hot Dog", "food/hot_dog_ganson", "Gerald G", "Hot Dog"),
        ("Hot Dog (B and W)", "food/hot_dog_bw_ganson", "Gerald G", "Hot Dog (black and white)"),
        ("Road Signs Collection", "food/zucca_architetto_france_01", "Architetto Francesco Rollandin", "zucca"),
        ("Menu Clipart", "food/apple_wedge_bw", "", "apple wedge (black and white)"),
        ("", "animals/sheep-md-v0.1", "", "sheep"),
        ("Pinzatrice Rollandin", "office/x", "", "Pinzatrice"),
        ("Rana01", "animals/x", "", "Rana"),
        ("sleeping_cat", "animals/x", "", "sleeping cat"),
        ("Moons", "geography/astronomy/04_waxinggibbous_opencl_01", "", "waxing gibbous moon"),
        ("L&amp;#233;zard", "animals/x", "", "Lézard"),
        ("LÃ©zard", "animals/x", "", "Lézard"),
        ("45 rpm record", "recreation/music/x", "", "45 rpm record"),
    ],
)
def test_titles(title: str, path: str, author: str, expected: str) -> None:
    assert rules.choose_title(title, path, author) == expected


@pytest.mark.parametrize(
    "description",
    ["", "Apple", "apple.", "Apple (B and W)", "from www.x.org", "me@x.org", "HASH(0x86)", "Made with Inkscape"],
)
def test_descriptions_that_say_nothing(description: str) -> None:
    assert rules.clean_description(description, "Apple (black and white)") == ""


def test_caption() -> None:
    description = rules.clean_description("A red  apple", "Apple")
    assert rules.make_caption("Apple", ["food", "fruit"], description) == "Apple: food, fruit. A red apple"
    assert rules.make_caption("Apple", [], "") == "Apple"
    assert rules.make_caption("Apple", [], "A red apple") == "Apple. A red apple"


@pytest.mark.parametrize(
    ("source", "one", "other", "same"),
    [
        ("openclipart", "Ice Cream Cone (1 Scoop)", "Ice Cream Cone (4 Scoop) (B and W)", True),
        ("openclipart", "pin - blue", "pin - red", True),
        ("openclipart", "Apple (black and white)", "Apple", True),
        ("openclipart", "apple", "pear", False),
        ("openclipart", "woman", "man", False),
        ("fluent3d", "woman running", "man running", True),
        ("fluent3d", "man", "woman", False),
        ("fluent3d", "keycap: 1", "keycap: 2", True),
        ("fluent3d", "flag: France", "flag: Ireland", False),
        ("fluent3d", "red heart", "blue heart", True),
    ],
)
def test_title_stems(source: str, one: str, other: str, same: bool) -> None:
    assert (rules.title_stem(source, one) == rules.title_stem(source, other)) is same


def test_block_list_takes_exact_keys_and_endings(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# why\nopenclipart/a/b\nopenclipart/c/d*  # why\n", encoding="utf-8")
    blocked = rules.BlockList(path)
    found = [key for key in ("openclipart/a/b", "openclipart/a/b1", "openclipart/c/d9", "fluent3d/a") if key in blocked]
    assert found == ["openclipart/a/b", "openclipart/c/d9"]


def test_metadata_comes_from_the_work_element(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:r="r" xmlns:c="c" xmlns:d="d"><title>no</title><metadata><r:RDF>'
        "<c:Work><d:title>Hot Dog</d:title><d:description>tasty</d:description><d:subject><r:Bag><r:li>food</r:li>"
        "<r:li>dog</r:li></r:Bag></d:subject><d:publisher><c:Agent><d:title>Library</d:title></c:Agent></d:publisher>"
        "<d:creator><c:Agent><d:title>Jane Doe</d:title></c:Agent></d:creator></c:Work></r:RDF></metadata></svg>",
        encoding="utf-8",
    )
    assert items.read_metadata(path) == ("Hot Dog", ["food", "dog"], "tasty", "Jane Doe")
    path.write_text("<svg", encoding="utf-8")
    assert items.read_metadata(path) == ("", [], "", "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  1 This software and database", None),
        ('00 03 n 02 hot_dog 0 frank 0 001 @ 1 n 0000 | a  sausage; "two"  ', 'hot dog: a sausage; "two"'),
        ("00 00 a 01 afloat(p) 0 000 | borne on the water  ", "afloat: borne on the water"),
    ],
)
def test_gloss_lines(line: str, expected: str | None) -> None:
    assert glosses.parse_line(line) == expected


def test_glosses_that_stay_out() -> None:
    assert rules.BLOCKED_GLOSSES.search("x: (ethnic slur) offensive name for a person")
    assert rules.BLOCKED_GLOSSES.search("x: obscene terms for feces")
    assert not rules.BLOCKED_GLOSSES.search("shittah: source of a wood; Phaseolus vulgaris")


def test_groups_join_series_and_look_alikes() -> None:
    def item(key: str, title: str, folder: str = "food") -> items.Item:
        return items.Item(f"openclipart/{key}", Path(), folder, None, title, (), "")

    found = [item("e", "Pear 1"), item("b", "Pear 2"), item("c", "plum"), item("a", "fig"), item("d", "Pear", "plants")]
    hashes = np.zeros((5, 256), dtype=bool)
    for row, start in enumerate((0, 40, 80, 80, 200)):
        hashes[row, start : start + 40] = True
    hashes[3, :16] = True
    assert groups.group_names(found, hashes) == [f"openclipart/{key}" for key in "bbaad"]
    hashes[3, 16] = True
    assert groups.group_names(found, hashes) == [f"openclipart/{key}" for key in "bbcad"]


def test_distances_against_a_plain_loop() -> None:
    bits = np.random.default_rng(0).random((7, 256)) < 0.5
    expected = [[sum(bool(x) != bool(y) for x, y in zip(a, b, strict=True)) for b in bits] for a in bits[:3]]
    assert groups.distances(bits[:3], bits).tolist() == expected


def test_render_centres_on_white_and_refuses_huge_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGBA", (200, 100), (255, 0, 0, 255)).save(tmp_path / "wide.png")
    picture = pictures.render(tmp_path / "wide.png")
    assert picture is not None
    assert (picture.size, picture.mode) == ((64, 64), "RGB")
    assert picture.getpixel((32, 32)) == (255, 0, 0)
    assert picture.getpixel((32, 10)) == (255, 255, 255)
    assert picture.getpixel((32, 50)) == (255, 255, 255)
    assert not pictures.is_near_blank(picture)
    assert pictures.is_near_blank(Image.new("RGB", (64, 64), (240, 240, 240)))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 200 * 100 - 1)
    assert pictures.render(tmp_path / "wide.png") is None


def test_writers_give_the_same_bytes_twice(tmp_path: Path) -> None:
    for name in ("one", "two"):
        writer.write_zip(tmp_path / f"{name}.zip", [b"a", b"bb"])
        writer.write_lines(tmp_path / f"{name}.xz", ["é", "b"])
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert (tmp_path / "one.xz").read_bytes() == (tmp_path / "two.xz").read_bytes()
    assert lzma.decompress((tmp_path / "one.xz").read_bytes()).decode() == "é\nb\n"
