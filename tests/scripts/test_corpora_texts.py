"""Texts of the collection's packages: what markup becomes, and where a document begins and ends."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from corpora import texts

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def base64(number: int) -> str:
    return DIGITS[number] if number < 64 else base64(number // 64) + DIGITS[number % 64]


def test_a_dictionary_is_cut_where_its_index_says(tmp_path: Path) -> None:
    entries = ["about this dictionary", "Bat\n   An animal.\n   [1913 Webster]\n", "Cup\n   café\n", "Dud\n   a vulgar term\n"]
    data = "".join(entries).encode()
    lines, at = [], 0
    for word, entry in zip(("00databaseinfo", "bat", "cup", "dud"), entries, strict=True):
        size = len(entry.encode())
        lines.append(f"{word}\t{base64(at)}\t{base64(size)}")
        at += size
    lines.insert(1, lines[1].replace("bat", "bats"))  # two words for one entry
    write(tmp_path / "usr/share/dictd/d.dict.dz", gzip.compress(data))
    write(tmp_path / "usr/share/dictd/d.index", "\n".join(lines))
    assert list(texts.dictionary(tmp_path, "d")) == ["Bat\n   An animal.\n\nCup\n   café"]
    assert list(texts.dictionary(tmp_path, "d", longest_alone=1)) == ["Bat\n   An animal.", "Cup\n   café"]


def test_pod_keeps_words_and_code(tmp_path: Path) -> None:
    pod = """=encoding utf8

=head1 NAME
X<syntax>

perlx - B<bold I<nested>> and C<< $a->b < 3 >>, C<E<lt>tag>, see L<the list|perlfunc/open>,
L<perlop> and S<no break>Z<>

=over 4

=item * one

  my $x = shift;
  print $x;

=back

=cut
"""
    assert texts.pod_text(pod) == (
        "NAME\n\nperlx - bold nested and $a->b < 3, <tag, see the list, perlop and no break\n\n* one\n\n"
        "  my $x = shift;\n  print $x;"
    )


def test_sayings_are_documents_without_slurs(tmp_path: Path) -> None:
    write(tmp_path / "usr/share/games/fortunes/a", "One.\n%\nAn offensive term.\n%\n_\bT_\bwo.\n")
    write(tmp_path / "usr/share/games/fortunes/a.dat", b"\0\1")
    assert list(texts.fortunes(tmp_path)) == ["One.", "Two.\n"]


def test_help_pages_are_their_titles_and_paragraphs(tmp_path: Path) -> None:
    page = """<page xmlns="http://projectmallard.org/1.0/"><info><desc>Not read.</desc></info><title>Back up</title>
    <p>Keep <em>copies</em>
    of it.</p><steps><item><p>First.</p></item></steps><media type="image" src="a.png"><p>Shown.</p></media></page>"""
    write(tmp_path / "usr/share/help/C/help/a.page", page)
    assert list(texts.mallard(tmp_path)) == ["Back up\n\nKeep copies of it.\n\nFirst."]


def test_plays_are_cut_at_scenes_into_pieces_of_a_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "SCENES", 30)
    play = "LEAR\n\nACT I.\n\nSCENE I. A hall.\nFool. Prithee.\nScene II\nHo!\n"
    write(tmp_path / "s-0.6/data/texts/lear_gut.txt", play.replace("\n", "\r\n"))
    write(tmp_path / "s-0.6/data/texts/lear_gut_f.txt", "in the old spelling")
    assert list(texts.plays(tmp_path)) == ["LEAR\n\nACT I.\n\nSCENE I. A hall.\nFool. Prithee.\n", "Scene II\nHo!\n"]


def test_glosses_of_a_field_stand_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "ENTRIES", 12)
    for part, word in (("noun", "bat"), ("verb", "run"), ("adj", "red"), ("adv", "now")):
        lines = f"  1 header\n001 05 n 01 {word} 0 | first  gloss\n002 05 n 01 {word}_two 0 | second gloss\n"
        write(tmp_path / f"usr/share/wordnet/data.{part}", lines)
    assert list(texts.wordnet(tmp_path))[:2] == ["bat: first gloss", "bat two: second gloss"]


def test_another_package_is_said_to_be_one(tmp_path: Path) -> None:
    for read in (texts.pod, texts.fortunes, texts.mallard, texts.plays, texts.wordnet):
        with pytest.raises(FileNotFoundError, match="no "):
            list(read(tmp_path))


def test_a_file_has_every_document_once(tmp_path: Path) -> None:
    counts = texts.write(["one", " one\n", "", "zwei ä"], tmp_path / "t/x.jsonl")
    assert counts == {"documents": 2, "characters": 9}
    assert (tmp_path / "t/x.jsonl").read_text(encoding="utf-8") == '{"text": "one"}\n{"text": "zwei ä"}\n'
