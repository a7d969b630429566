"""Preparing real captions: once, again, interrupted, and as fairseq-preprocess would."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from data_preparation import subwords
from data_preparation.bitext import Bitext, BitextError
from data_preparation.download import PreparationError
from data_preparation.subwords import prepare_archive, prepare_folder

from tests.scripts.data_preparation.test_bitext import TESTS, iwslt14, real_tests, write

pytestmark = pytest.mark.nmt

BINARY = ("*.bin", "*.idx", "dict.*")


def contents(folder: Path) -> dict[str, str]:
    files = [file for pattern in BINARY for file in folder.glob(pattern)]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture
def source(tmp_path: Path, shared: Path) -> Path:
    """60, 5 and 5 captions."""
    texts = {}
    for split, stem, lines in (("train", "train", 60), ("valid", "val", 5), ("test", "test_2016_flickr", 5)):
        for language in ("de", "en"):
            text = (shared / "data" / "multi30k" / f"{stem}.{language}").read_text("utf-8")
            texts[f"{split}_{language}"] = "\n".join(text.split("\n")[:lines]) + "\n"
    return write(tmp_path / "source", **texts)


def test_the_binaries_are_those_of_fairseq_preprocess(captions: Path, tmp_path: Path) -> None:
    """From the same subwords, byte for byte."""
    text = captions / "multi30k" / "subwords"
    code = (
        "from llqr_sam.fairseq_compat import ensure_fairseq; ensure_fairseq()\n"
        "from fairseq_cli.preprocess import cli_main; cli_main()"
    )
    options = ["--source-lang=de", "--target-lang=en", f"--destdir={tmp_path}", "--workers=1"]
    prefixes = [f"--{split}pref={text / split}" for split in ("train", "valid", "test")]
    subprocess.run([sys.executable, "-c", code, *options, *prefixes], check=True, capture_output=True)
    expected = contents(tmp_path)
    assert len(expected) == 14
    assert contents(captions / "multi30k") == expected


def test_words_are_lower_case_and_joined_again(captions: Path, shared: Path) -> None:
    cut = (captions / "multi30k" / "subwords" / "train.en").read_text("utf-8").split("\n")
    assert any("@@ " in line for line in cut)
    first = (shared / "data" / "multi30k" / "train.en").read_text("utf-8").split("\n")[0]
    assert cut[0].replace("@@ ", "").replace(" ", "") == first.lower().replace(" ", "")


def test_a_second_call_finds_it_and_other_text_is_refused(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "data" / "multi30k"
    assert prepare_folder(target, source, merges=50)
    before = contents(target)
    assert not prepare_folder(target, source, merges=50)
    with pytest.raises(BitextError, match="made from other text or settings"):
        prepare_folder(target, source, merges=60)
    (source / "valid.en").write_text("a\nb\nc\nd\ne\n")
    with pytest.raises(BitextError, match="made from other text or settings"):
        prepare_folder(target, source, merges=50)
    assert contents(target) == before


@pytest.mark.parametrize("step", ["_text", "_learn", "_cut", "_binarise"])
def test_interrupted_in_any_step_it_goes_on(
    step: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing stands under the final name before it is whole, and the result is that of an undisturbed call."""
    whole, target = tmp_path / "whole", tmp_path / "data" / "multi30k"
    prepare_folder(whole, source, merges=50)

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(subwords, step, interrupted)
        prepare_folder(target, source, merges=50)
    assert not target.exists()
    capsys.readouterr()
    assert prepare_folder(target, source, merges=50)
    assert ("tokenising" in capsys.readouterr().out) == (step == "_text")
    assert contents(target) == contents(whole)
    assert not list(target.parent.glob(".*.partial"))


def test_half_a_step_is_done_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine stops when a third of the subwords is written."""
    whole, target = tmp_path / "whole", tmp_path / "multi30k"
    prepare_folder(whole, source, merges=50)
    calls = []

    def failing(text: Bitext, longest: int) -> None:
        calls.append(text)
        if len(calls) == 2:
            raise OSError("no space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr(Bitext, "check_lengths", failing)
        prepare_folder(target, source, merges=50)
    prepare_folder(target, source, merges=50)
    assert contents(target) == contents(whole)


def text_of(target: Path, split: str) -> tuple[list[str], list[str]]:
    """Both sides of a split before they are cut into subwords."""
    source, translation = json.loads((target / "text.json").read_text())[split]["sides"]
    return source, translation


def test_text_that_is_cut_already(source: Path, tmp_path: Path) -> None:
    """Subwords are joined again, and escapes of Moses' stay what they are."""
    line = "it &apos;s a li@@ ttle hou@@ se\n"
    write(source, valid_de=line * 5, valid_en=line * 5)
    prepare_folder(tmp_path / "data", source, merges=50, tokenised=True)
    assert text_of(tmp_path / "data", "valid")[0][0] == "it &apos;s a little house"


def test_a_line_beyond_max_positions_is_named(source: Path, tmp_path: Path) -> None:
    lines = (source / "test.de").read_text().split("\n")
    lines[2] = "wort " * 1100
    (source / "test.de").write_text("\n".join(lines))
    with pytest.raises(BitextError, match=r"test.de, line 3: \d+ tokens, but a network takes 1023 at most"):
        prepare_folder(tmp_path / "data", source, merges=50)


def test_the_archive_from_a_local_copy_and_by_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A download that is not IWSLT14 is refused with what it hashes to, and accepted when that is given back."""
    archive = iwslt14(tmp_path / "de-en.tgz", repeat=30)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert prepare_archive(tmp_path / "a" / "iwslt14", merges=5, archive=archive)
    heard = capsys.readouterr().out.splitlines()
    assert f"{archive}: SHA-256 {digest}" in heard
    assert "90 training pairs, 0 dropped as too long, empty or too unlike in length" in heard
    sizes = {split: len(text_of(tmp_path / "a" / "iwslt14", split)[0]) for split in ("train", "valid", "test")}
    assert sizes == {"train": 87, "valid": 3, "test": 5}
    assert text_of(tmp_path / "a" / "iwslt14", "test")[1][0].startswith(f"it &apos;s {TESTS[0].lower()}")

    target, url = tmp_path / "b" / "iwslt14", archive.as_uri()
    with pytest.raises(PreparationError, match=f"its content is not what is expected .* SHA-256 {digest}:") as caught:
        prepare_archive(target, merges=5, url=url)
    assert "\n" not in str(caught.value)
    with pytest.raises(PreparationError, match="instead of 00; the download was deleted"):
        prepare_archive(target, merges=5, url=url, sha256="00")
    assert prepare_archive(target, merges=5, url=url, sha256=digest)
    assert contents(target) == contents(tmp_path / "a" / "iwslt14")
    assert not prepare_archive(target, merges=5, url=url)  # it is there: nothing is downloaded
    assert not list(target.parent.glob(".*.part"))


def test_the_real_archive_needs_no_checksum(tmp_path: Path, shared: Path) -> None:
    """Its test sentences are those of the real text, which fairseq's own recipe had tokenised."""
    url = iwslt14(tmp_path / "de-en.tgz", repeat=30, tests=real_tests(shared)).as_uri()
    assert prepare_archive(tmp_path / "data" / "iwslt14", merges=5, url=url)
    assert not list((tmp_path / "data").glob(".*.part"))


def test_the_archives_folder_of_other_settings_is_refused(source: Path, tmp_path: Path) -> None:
    """Without a download; a folder's text is not cleaned, so it is not the archive's."""
    archive, target = iwslt14(tmp_path / "de-en.tgz", repeat=30), tmp_path / "data" / "iwslt14"
    assert prepare_archive(target, merges=5, archive=archive)
    before = contents(target)
    nowhere = (tmp_path / "absent.tgz").as_uri()
    assert not prepare_archive(target, merges=5, url=nowhere)
    with pytest.raises(BitextError, match=f"^{target} holds data made from other text or settings: remove it"):
        prepare_archive(target, merges=6, url=nowhere)
    assert contents(target) == before
    for tokenised in (False, True):
        other = tmp_path / str(tokenised)
        prepare_folder(other, source, merges=50, tokenised=tokenised)
        with pytest.raises(BitextError, match="made from other text or settings"):
            prepare_archive(other, merges=50, url=nowhere)
