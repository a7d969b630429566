"""Parallel text: what is read, what is refused and in which words."""

from __future__ import annotations

import html
import io
import tarfile
from pathlib import Path

import pytest

from llqr_sam.data.bitext import Bitext, BitextError, fingerprint, holds_iwslt14, read_archive, read_folder


def write(folder: Path, **files: str) -> Path:
    """``write(folder, train_de="...")`` writes ``train.de``."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        stem, _, language = name.rpartition("_")
        (folder / f"{stem}.{language}").write_bytes(text.encode())
    return folder


def bitext(*pairs: tuple[str, str]) -> Bitext:
    source, target = ([pair[side] for pair in pairs] for side in (0, 1))
    return Bitext.of((source, target), ("a.de", "a.en"))


def test_a_folder_of_three_splits(tmp_path: Path) -> None:
    """Lines end at line feeds only; other white space, whatever Unicode calls it, is one space."""
    folder = write(
        tmp_path,
        train_de="ein \u2028 Haus\r\nzwei\n",
        train_en="one\u00a0house\ntwo",
        val_de="drei\n",
        val_en="three\n",
        test_2016_flickr_de="vier\n",
        test_2016_flickr_en="four\n",
    )
    splits = read_folder(folder)
    assert splits["train"].sides == (["ein Haus", "zwei"], ["one house", "two"])
    assert splits["valid"].sides == (["drei"], ["three"])
    assert splits["test"].sides == (["vier"], ["four"])


def test_without_validation_every_23rd_pair_is_held_out(tmp_path: Path) -> None:
    lines = "".join(f"{number}\n" for number in range(1, 70))
    splits = read_folder(write(tmp_path, train_de=lines, train_en=lines, test_de="a\n", test_en="b\n"))
    assert splits["valid"].sides[0] == ["23", "46", "69"] == splits["valid"].sides[1]
    assert splits["valid"].numbers == [23, 46, 69]
    assert len(splits["train"]) == 66


def test_another_split_may_be_trained_on(tmp_path: Path) -> None:
    lines = "".join(f"{number}\n" for number in range(1, 24))
    splits = read_folder(write(tmp_path, valid_de=lines, valid_en=lines, test_de="a\n", test_en="b\n"), train="valid")
    assert (len(splits["train"]), splits["valid"].sides[0]) == (22, ["23"])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train_de": "a\nb\n", "train_en": "a\n"}, r"train.de, line 2: train.en has no such line. .* 2 and 1 lines"),
        ({"train_de": "a\n", "train_en": "a\nb\nc\n"}, r"train.en, line 2: train.de has no such line"),
        ({"train_de": "a\n\nc\n", "train_en": "a\nb\nc\n"}, r"train.de, line 2: the line is empty"),
        ({"train_de": "a\nb\n", "train_en": "a\n \t\n"}, r"train.en, line 2: the line is empty"),
        ({"train_de": "a\n"}, r"train.en is missing, the other side of train.de"),
        ({"train_en": "a\n"}, r"train.de is missing, the other side of train.en"),
        ({}, r"train.de is missing"),
        ({"train_de": "a\n", "train_en": "a\n"}, r"test.de is missing"),
        ({"train_de": "", "train_en": ""}, r"train.de has no lines"),
    ],
)
def test_bad_text_is_named_by_file_and_line(tmp_path: Path, files: dict[str, str], words: str) -> None:
    with pytest.raises(BitextError, match=words) as caught:
        read_folder(write(tmp_path / "text", **files))
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf8_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "train.de").write_bytes("gut\nB\u00fcro\n".encode("latin-1"))
    (tmp_path / "train.en").write_text("good\noffice\n")
    with pytest.raises(BitextError, match=r"train.de, line 2: not UTF-8"):
        read_folder(tmp_path)


def test_a_line_too_long_is_named_by_its_line_in_the_file() -> None:
    """The number is the file's, also after pairs before it were dropped."""
    text = bitext(("a", "a"), ("b", "b"), ("c c c", "c")).where(lambda i, *_: i != 0)
    text.check_lengths(3)
    with pytest.raises(BitextError, match=r"a.de, line 3: 3 tokens, but a network takes 2 at most"):
        text.check_lengths(2)


def test_cleaning_is_the_recipes() -> None:
    """Moses' clean-corpus-n.perl -ratio 1.5 ... 1 175, whose limits are inclusive."""
    long = " ".join(["w"] * 175)
    kept = [("a", "b"), ("a a a", "b b"), ("a a", "b b b"), (long, long)]
    dropped = [("", "b"), ("a", ""), ("a a a a", "b b"), ("a", "b b"), (f"{long} w", f"{long} w")]
    cleaned = bitext(*dropped, *kept).cleaned()
    assert list(zip(*cleaned.sides, strict=True)) == kept
    assert cleaned.numbers == [6, 7, 8, 9]


TALK = (
    "<url>http://a</url>\n<keywords>x</keywords>\n<talkid>1</talkid>\n"
    "<title>T {0}</title>\n<description>D {0}</description>\n S {0} \n"
)
SEGMENT = '<doc>\n<seg id="1"> {0} </seg>\n</doc>\n'
TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")


def iwslt14(path: Path, leave_out: str = "", repeat: int = 1, tests: tuple[list[str], list[str]] | None = None) -> Path:
    """An archive in the layout of the public one: tiny, or with the test sentences given."""
    members = {f"train.tags.de-en.{language}": TALK.format(language) * repeat for language in ("de", "en")}
    for part, name in enumerate(TESTS):
        for side, language in enumerate(("de", "en")):
            lines = (
                tests[side][1350 * part : 1350 * (part + 1)]
                if tests
                else [f"it\N{RIGHT SINGLE QUOTATION MARK}s {name} {language}"]
            )
            members[f"IWSLT14.{name}.de-en.{language}.xml"] = "".join(map(SEGMENT.format, lines))
    with tarfile.open(path, "w:gz") as tar:
        for name, text in members.items():
            if name != leave_out:
                info = tarfile.TarInfo(f"de-en/{name}")
                info.size = len(text.encode())
                tar.addfile(info, io.BytesIO(text.encode()))
    return path


def test_the_archive_is_read_as_in_fairseqs_recipe(tmp_path: Path) -> None:
    """Lines about a talk go, titles and descriptions stay; five test sets in the recipe's order."""
    splits = read_archive(iwslt14(tmp_path / "de-en.tgz"))
    assert splits["train"].sides == (["T de", "D de", "S de"], ["T en", "D en", "S en"])
    assert splits["test"].sides[0] == [f"it's {name} de" for name in TESTS]


def real_tests(shared: Path) -> tuple[list[str], list[str]]:
    """IWSLT14's test sentences, no longer cut or escaped by Moses' tokeniser; where it put spaces they stay."""
    texts = [(shared / "data" / "iwslt14" / f"test.{language}").read_text("utf-8") for language in ("de", "en")]
    de, en = (html.unescape(text.replace("@@ ", "")).removesuffix("\n").split("\n") for text in texts)
    return de, en


def test_the_public_archive_is_known_by_its_test_sentences(tmp_path: Path, shared: Path) -> None:
    """Those of the real text, whatever the training text; one letter more, or one sentence less, and it is another."""
    real = real_tests(shared)
    assert holds_iwslt14(iwslt14(tmp_path / "de-en.tgz", tests=real))
    for changed in (([*real[0][:-1], f"{real[0][-1]}x"], real[1]), (real[0][:-1], real[1][:-1]), (real[1], real[0])):
        assert not holds_iwslt14(iwslt14(tmp_path / "other.tgz", tests=changed))
    (tmp_path / "page.html").write_text("<html>")
    assert not holds_iwslt14(tmp_path / "page.html")


def test_a_fingerprint_does_not_see_case_and_space() -> None:
    assert fingerprint(bitext(("Ein Haus.", "A house."))) == fingerprint(bitext(("ein haus .", "a\u00a0house .")))
    assert fingerprint(bitext(("a", "b"))) != fingerprint(bitext(("b", "a")))
    assert fingerprint(bitext(("ab", "c"), ("d", "e"))) != fingerprint(bitext(("a", "c"), ("bd", "e")))


def test_an_archive_without_a_member_is_refused(tmp_path: Path) -> None:
    missing = "IWSLT14.TED.tst2011.de-en.en.xml"
    with pytest.raises(BitextError, match=f"not a readable archive .*{missing}"):
        read_archive(iwslt14(tmp_path / "de-en.tgz", leave_out=missing))
    (tmp_path / "page.html").write_text("<html>")
    with pytest.raises(BitextError, match=r"page.html is not a readable archive"):
        read_archive(tmp_path / "page.html")
