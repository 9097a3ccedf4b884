"""Folders of HTML pages: what of a page is read, in which order, and which of its pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from momafuse.data.sources import Item, Raw, html_text, open_source
from momafuse.errors import UserError
from tests.data.corpora import source


def picture(folder: Path, name: str, size: tuple[int, int] = (80, 70)) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(name) * 7 % 256, 90, 40)).save(folder / name)


def page(folder: Path, name: str, body: str, head: str = '<meta charset="utf-8">', encoding: str = "utf-8") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    html = f"<!DOCTYPE html><html><head><title>Not read</title>{head}</head><body>{body}</body></html>"
    (folder / name).write_bytes(html.encode(encoding))


def items(folder: Path) -> dict[str, Item]:
    return {item.key: item for item in open_source("pages", source("html_pages", folder)).items()}


def read(folder: Path, body: str) -> list[str | Path]:
    """What a page of this body says; pictures as paths from the folder on."""
    page(folder, "page.html", body)
    parts = items(folder)["page.html"].segments
    return [part if isinstance(part, str) else Path(part.path or "").relative_to(folder) for part in parts]


def test_texts_and_pictures_stand_in_the_order_of_reading(tmp_path: Path) -> None:
    for name in ("a.png", "deep/b b.jpg", "c.gif"):
        picture(tmp_path, name)
    body = """<h1>A <b>title</b></h1><p>Said &amp; done,&nbsp;caf&#233;   over
    two lines<img src="a.png?size=1#top" alt="first thing shown">behind it</p><ul><li>one<li>two <em>in</em>side</ul>
    <table><tr><td>x</td><td>y</td></tr><tr><td><p>nested <img src="deep/b%20b.jpg" alt=logo> cell</p></td></tr></table>
    <pre>code:
      kept  as it is</pre><img src="/c.gif">"""
    assert read(tmp_path, body) == [
        "A title\n\nSaid & done, café over two lines",
        Path("a.png"),
        "first thing shown\nbehind it\n\none\ntwo inside\n\nx y\n\nnested",
        Path("deep/b b.jpg"),
        "cell\n\ncode:\n      kept  as it is",
        Path("c.gif"),
    ]


def test_what_is_no_part_of_the_page_is_left_out(tmp_path: Path) -> None:
    picture(tmp_path, "logo.png")
    body = """<header>Site<img src="logo.png"></header><nav><ul><li>Home</ul></nav><div class="big navheader">Next</div>
    <div role="navigation">Up</div><script>if (a < b) "c"</script><style>p {}</style><p hidden>gone</p>
    <span style="display: none">gone too</span><article><header>The article's own.</header><p>Words<a class="headerlink"
    href="#w">¶</a>.</p></article><aside>More</aside><button>Press</button><footer><p>Imprint</footer></div></i>"""
    assert read(tmp_path, body) == ["The article's own.\n\nWords."]
    assert read(tmp_path, "<p>Around</p><div role=main><p>Within</p></div><p>below</p>") == ["Within"]
    assert read(tmp_path, "<p>Around</p><main> </main>") == ["Around"]
    assert read(tmp_path, "<p>never <b>closed<div class=menu>x<p>y</div> but <i>read") == ["never closed\nbut read"]


def test_pictures_that_cannot_be_shown_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    picture(folder, "wide.png", (400, 63))
    picture(folder, "least.png", (64, 64))
    picture(tmp_path, "outside.png")
    (folder / "drawing.svg").write_text("<svg/>")
    (folder / "broken.png").write_bytes(b"no picture")
    body = """<p>At <img src="gone.png" alt="a missing one"> and <img src="http://x.org/least.png"><img src="//x.org/least.png">
    <img src="https://[x"><img src="data:image/png;base64,AAAA"><img src="wide.png" alt="icon"><img><img src=""><img src="%00">
    <img src="../outside.png"><img src="drawing.svg"><img src="broken.png"><img src="."> so <img src="least.png"></p>"""
    assert read(folder, body) == ["At a missing one and so", Path("least.png")]


def test_what_is_said_twice_is_read_once(tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    figure = '<p>Figure 3. The round one.</p><img src="a.png" alt="The round one"><img src="a.png" alt="the other one">'
    assert read(tmp_path, figure * 2) == [
        *("Figure 3. The round one.", Path("a.png"), Path("a.png"), "the other one\n\nFigure 3. The round one."),
        *(Path("a.png"), Path("a.png")),
    ]


def test_paths_begin_at_the_page(tmp_path: Path) -> None:
    picture(tmp_path, "pictures/a.png")
    page(tmp_path, "one/two/p.htm", '<p>up</p><img src="../../pictures/a.png"><p>and down</p>')
    page(tmp_path, "one/empty.html", "<nav>Home</nav>")
    page(tmp_path, "q.xhtml", '<p/>alone<br/><a id="x"/>still')
    (tmp_path / "notes.txt").write_text("no page")
    found = items(tmp_path)
    assert set(found) == {"one/two/p.htm", "q.xhtml"}
    assert found["q.xhtml"].segments == ("alone\nstill",)
    assert found["one/two/p.htm"].segments == (
        *("up", Raw(None, str((tmp_path / "pictures/a.png").resolve()))),
        "and down",
    )


def test_pages_say_how_they_are_encoded(tmp_path: Path) -> None:
    said = "<p>naïve café, “quoted”</p>"
    page(tmp_path, "utf.html", said, head="")
    page(tmp_path, "latin.html", said, '<meta http-equiv="Content-Type" content="text/html; charset=ISO-8859-1">', "cp1252")
    page(tmp_path, "unknown.html", said, "<meta charset='x-none'>")
    page(tmp_path, "wide.html", said, head="", encoding="utf-16")
    (tmp_path / "noise.html").write_bytes(bytes(range(256)) * 20)
    found = items(tmp_path)
    assert set(found) == {"utf.html", "latin.html", "unknown.html", "wide.html"}
    assert {item.segments for item in found.values()} == {("naïve café, “quoted”",)}


def test_pages_are_held_out_by_their_path(tmp_path: Path) -> None:
    for n in range(300):
        page(tmp_path, f"{n}.html", f"<p>page {n}")
    before = items(tmp_path)
    held_out = {key for key, item in before.items() if item.split == "validation"}
    assert 1 <= len(held_out) <= 16
    for n in range(300, 330):
        page(tmp_path, f"{n}.html", f"<p>page {n}")
    after = items(tmp_path)
    first = {next(iter(before)), next(iter(after))}  # always held out
    assert all(after[key].split == item.split for key, item in before.items() if key not in first)
    opened = open_source("pages", source("html_pages", tmp_path))
    assert [item.key for item in opened.items(skip=200)] == list(after)[200:]


def test_a_folder_without_pages_gets_one_line(tmp_path: Path) -> None:
    for message in (r"no pages here; give a folder of \.html", "none of the pages says anything"):
        with pytest.raises(UserError, match=rf"^data\.sources\.pages\.path=.*{message}"):
            items(tmp_path)
        page(tmp_path, "p.html", "<nav>Home</nav>")


def test_joined_parts_give_the_text_again() -> None:
    parts = html_text.read("<p>one <img alt='x'> two<img>three</p><p><img>four</p>")
    assert "".join(part for part in parts if isinstance(part, str)) == "\n\none twothree\n\nfour"
    assert [part for part in parts if not isinstance(part, str)] == [("", "x"), ("", ""), ("", "")]
