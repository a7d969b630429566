"""Parallel text: sentence pairs of one split, read and checked line by line.

Every error names a file and a line, so a pair keeps the number of its line through all changes.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = ("de", "en")  # source, target
SPLITS = ("train", "valid", "test")
_STEMS = {"train": ("train",), "valid": ("valid", "val", "dev"), "test": ("test", "test_2016_flickr")}

# The archive's test sets, in the order in which fairseq's recipe joins them.
_TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
# ``fingerprint`` of their 6,750 pairs, from a copy that fairseq's recipe had tokenised and cut.
TESTS_SHA256 = "f86cb0a5ba641e67376d1887191a10ad78ba0df45c5eac53d8c3d3c5f3359cd9"

# fairseq's recipe: every 23rd pair is for validation; tokens of a line; most tokens per token of the other side.
_HELD_OUT, _MAXIMUM, _RATIO = 23, 175, 1.5


class BitextError(ValueError):
    """Text that cannot be used; the message is one line with the file and, if there is one, the number of the line."""


@dataclass(frozen=True)
class Bitext:
    """Sentence pairs."""

    sides: tuple[list[str], list[str]]  # source and target sentences, equally many
    files: tuple[str, str]  # where each side comes from, for messages
    numbers: list[int]  # line of each pair in both files, counted from 1

    @classmethod
    def of(cls, sides: tuple[list[str], list[str]], files: tuple[str, str]) -> Bitext:
        """All lines of two files; BitextError unless they are equally many."""
        (few, shorter), (many, longer) = sorted(zip(map(len, sides), files, strict=True), key=lambda side: side[0])
        if few != many:
            why = f"The files have {many} and {few} lines and must correspond line by line."
            raise BitextError(f"{longer}, line {few + 1}: {Path(shorter).name} has no such line. {why}")
        return cls(sides, files, list(range(1, few + 1)))

    def __len__(self) -> int:
        return len(self.numbers)

    def mapped(self, change: Callable[[str, str], str]) -> Bitext:
        """Every sentence replaced by ``change(sentence, language)``."""
        source, target = (
            [change(line, language) for line in side] for side, language in zip(self.sides, LANGUAGES, strict=True)
        )
        return Bitext((source, target), self.files, self.numbers)

    def where(self, keeps: Callable[[int, str, str], bool]) -> Bitext:
        """The pairs for which ``keeps(index, source, target)`` holds."""
        kept = [i for i, pair in enumerate(zip(*self.sides, strict=True)) if keeps(i, *pair)]
        source, target = ([side[i] for i in kept] for side in self.sides)
        return Bitext((source, target), self.files, [self.numbers[i] for i in kept])

    def split(self) -> tuple[Bitext, Bitext]:
        """Training pairs, and every 23rd pair for validation."""
        train = self.where(lambda i, *_: (i + 1) % _HELD_OUT != 0)
        return train, self.where(lambda i, *_: (i + 1) % _HELD_OUT == 0)

    def cleaned(self) -> Bitext:
        """Drop the pairs that fairseq's recipe drops: a side empty, over 175 tokens or over 1.5 times the other."""

        def keeps(_: int, source: str, target: str) -> bool:
            n, m = len(source.split()), len(target.split())
            return 1 <= n <= _MAXIMUM and 1 <= m <= _MAXIMUM and n <= _RATIO * m and m <= _RATIO * n

        return self.where(keeps)

    def check_lengths(self, longest: int) -> None:
        """Raise BitextError for a sentence without tokens, or with more than ``longest``."""
        for side, file in zip(self.sides, self.files, strict=True):
            for number, line in zip(self.numbers, side, strict=True):
                if not line:
                    raise BitextError(f"{file}, line {number}: no word is in the line.")
                if (tokens := line.count(" ") + 1) > longest:
                    raise BitextError(f"{file}, line {number}: {tokens} tokens, but a network takes {longest} at most.")


def read_folder(folder: Path, train: str | None = None) -> dict[str, Bitext]:
    """Read the splits of a folder: ``train``, ``valid`` and ``test`` files, one per language, one sentence per line.

    ``val`` and ``dev`` may stand for ``valid``, ``test_2016_flickr`` (Multi30k) for ``test``, and the stem ``train``
    for the training files; without a validation split every 23rd training pair is held out.

    Raises:
        BitextError: A file is missing, two have different numbers of lines, a line is empty or not UTF-8.
    """
    if not folder.is_dir():
        raise BitextError(f"{folder} is not a folder.")
    stems = {**_STEMS, "train": (train,)} if train else _STEMS
    if train in _STEMS["valid"]:
        stems["valid"] = ()
    found: dict[str, Bitext] = {}
    for split in SPLITS:
        for stem in stems[split]:
            files = [folder / f"{stem}.{language}" for language in LANGUAGES]
            if any(file.exists() for file in files):
                found[split] = _read_pair(*files)
                break
        if split not in found and split != "valid":
            raise BitextError(f"{folder / stems[split][0]}.{LANGUAGES[0]} is missing.")
    if "valid" not in found:
        found["train"], found["valid"] = found["train"].split()
    return found


def _read_pair(source: Path, target: Path) -> Bitext:
    """Read two files that correspond line by line."""
    for file, other in ((source, target), (target, source)):
        if not file.is_file():
            raise BitextError(f"{file} is missing, the other side of {other.name}.")
    text = Bitext.of((_lines(source), _lines(target)), (str(source), str(target)))
    for side, name in zip(text.sides, text.files, strict=True):
        if not side:
            raise BitextError(f"{name} has no lines.")
        if "" in side:
            raise BitextError(f"{name}, line {side.index('') + 1}: the line is empty.")
    return text


def _lines(file: Path) -> list[str]:
    """The lines of a file with single spaces. Only a line feed ends a line: text contains other line breaks."""
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BitextError(f"{file}, line {content[: error.start].count(10) + 1}: not UTF-8.") from error
    return [" ".join(line.split()) for line in text.removesuffix("\n").split("\n")] if text else []


def read_archive(archive: Path) -> dict[str, Bitext]:
    """Training and test pairs of the IWSLT14 archive ``de-en.tgz``, read without unpacking; BitextError for another."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            train = _archived(tar, "train.tags.de-en.{}", _training_lines)
            tests = [_archived(tar, f"IWSLT14.{name}.de-en.{{}}.xml", _segments) for name in _TESTS]
    except (tarfile.TarError, KeyError, EOFError, OSError, UnicodeDecodeError) as error:
        raise BitextError(f"{archive} is not a readable archive of IWSLT14: {error}.") from error
    source, target = ([line for test in tests for line in test.sides[side]] for side in (0, 1))
    return {"train": train, "test": Bitext.of((source, target), ("test.de", "test.en"))}


def holds_iwslt14(archive: Path) -> bool:
    """Whether a file is an archive in the layout of ``de-en.tgz`` with the test sentences of IWSLT14."""
    try:
        return fingerprint(read_archive(archive)["test"]) == TESTS_SHA256
    except BitextError:
        return False


def fingerprint(text: Bitext) -> str:
    """SHA-256 of the sentences, source side first, without their case and white space."""
    digest = hashlib.sha256()
    for side in text.sides:
        for line in side:
            digest.update("".join(line.lower().split()).encode() + b"\n")
    return digest.hexdigest()


def _archived(tar: tarfile.TarFile, member: str, read: Callable[[Iterable[str]], Iterator[str]]) -> Bitext:
    """The two files of the archive whose name is ``member`` with a language in it, read by ``read``."""
    source, target = (member.format(language) for language in LANGUAGES)
    sides = []
    for name in (source, target):
        file = tar.extractfile(f"de-en/{name}") or io.BytesIO()
        lines = file.read().decode("utf-8").removesuffix("\n").split("\n")
        sides.append([" ".join(line.split()) for line in read(lines)])
    return Bitext.of((sides[0], sides[1]), (source, target))


def _training_lines(lines: Iterable[str]) -> Iterator[str]:
    """The recipe's filter: drop lines about a talk, keep titles and descriptions without their tags."""
    for line in lines:
        if not any(tag in line for tag in ("<url>", "<talkid>", "<keywords>")):
            yield re.sub("</?(title|description)>", "", line)


def _segments(lines: Iterable[str]) -> Iterator[str]:
    """The sentences of a test set, with plain apostrophes as in the recipe."""
    for line in lines:
        if "<seg id" in line:
            yield re.sub(r'<seg id="[0-9]*">\s*|\s*</seg>\s*', "", line).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
