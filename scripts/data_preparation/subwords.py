"""From parallel text to what fairseq trains on: tokenised, lower-cased, cut into subwords, binarised.

The steps are those of fairseq's ``prepare-iwslt14.sh`` and ``fairseq-preprocess``, with sacremoses for Moses' scripts:
one byte-pair encoding learned on both languages of the training text, one dictionary per language. Each file gets its
final name when it is complete, and the folder when all files are in it; an interrupted preparation continues with the
first missing file. Each step is announced on stdout.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_preparation.bitext import SPLITS, Bitext, BitextError, holds_iwslt14, read_archive, read_folder
from data_preparation.download import Source, locked, official
from llqr_sam.data.translation import LANGUAGES, MAX_POSITIONS
from llqr_sam.fairseq_compat import ensure_fairseq

ARCHIVE_URL = "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"  # fairseq's prepare-iwslt14.sh


@dataclass(frozen=True)
class Recipe:
    """What a prepared folder was made from, kept in it as ``recipe.json``."""

    text_sha256: str  # of the archive, or of the folder's sentences
    merges: int
    tokenised: bool
    cleaned: bool

    @classmethod
    def of_folder(cls, folder: Path) -> Recipe | None:
        """The recipe in a folder; None if there is none that can be read."""
        try:
            return cls(**json.loads((folder / "recipe.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


def prepare_archive(
    target: Path, *, merges: int, archive: Path | None = None, sha256: str | None = None, url: str = ARCHIVE_URL
) -> bool:
    """Make ``target`` from the IWSLT14 archive as fairseq's recipe does; returns False if it was there already.

    Args:
        target: Folder of the data set.
        merges: Operations of the byte-pair encoding.
        archive: A local copy of the archive, instead of a download.
        sha256: Checksum of the archive. None is published; without it, a download is accepted if its test sentences
            are those of IWSLT14 (``holds_iwslt14``), and else refused with its checksum.
        url: Where it is downloaded from.

    Raises:
        BitextError, PreparationError, OSError: The archive or the download is wrong, or ``target`` was made from other
            text or settings.
    """
    found = Recipe.of_folder(target)
    if archive is None and sha256 is None and found is not None:  # no need to download what it was made from
        return _is_made(target, Recipe(found.text_sha256, merges, tokenised=False, cleaned=True))
    if archive is None:
        ensure_fairseq()  # before the download
    source = Source(url, sha256, "SHA-256")
    with _lock_of(target), official(source, target.parent, archive, holds_iwslt14) as file:
        digest = source.digest(file)
        print(f"{file}: SHA-256 {digest}")
        return _prepare(target, Recipe(digest, merges, tokenised=False, cleaned=True), read_archive(file))


def prepare_folder(
    target: Path, folder: Path, *, merges: int, train: str | None = None, tokenised: bool = False
) -> bool:
    """Make ``target`` from every line of a folder of text (``read_folder``); returns False if it was there already.

    Args:
        target: Folder of the data set.
        folder: The text.
        merges: Operations of the byte-pair encoding.
        train: Stem of the training files, if it is not ``train``.
        tokenised: The text is tokenised already, and not tokenised again; subwords joined by ``@@`` are put together.

    Raises:
        BitextError: The text is invalid, or ``target`` was made from other text or settings.
    """
    splits = read_folder(folder, train)
    digest = hashlib.sha256()
    for split in SPLITS:
        for side in splits[split].sides:
            digest.update("\n".join([split, *side]).encode())
    with _lock_of(target):
        return _prepare(target, Recipe(digest.hexdigest(), merges, tokenised, cleaned=False), splits)


def _lock_of(target: Path) -> AbstractContextManager[None]:
    return locked(target.with_name(f".{target.name}.lock"))


def _prepare(target: Path, recipe: Recipe, read: dict[str, Bitext]) -> bool:
    """Run the steps that no earlier call has finished; returns whether ``target`` was not there."""
    if target.exists():
        return _is_made(target, recipe)
    ensure_fairseq()  # after everything that the user may have to put right in the text
    scratch = target.with_name(f".{target.name}.partial")
    if Recipe.of_folder(scratch) != recipe:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        (scratch / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n")
    text = scratch / "text.json"
    _step(text, lambda path: path.write_text(json.dumps(_text(recipe, read))))
    splits = {split: Bitext(**stored) for split, stored in json.loads(text.read_bytes()).items()}
    _step(scratch / "code", lambda path: _learn(path, splits["train"], recipe.merges))
    _step(scratch / "subwords", lambda path: _cut(path, scratch / "code", splits))
    _binarise(scratch)
    os.replace(scratch, target)
    return True


def _is_made(target: Path, recipe: Recipe) -> bool:
    """False, because ``target`` need not be made; BitextError if it was made from another recipe."""
    if Recipe.of_folder(target) != recipe:
        raise BitextError(f"{target} holds data made from other text or settings: remove it, or name another one.")
    return False


def _step(path: Path, make: Callable[[Path], object]) -> None:
    """Make a file or folder unless an earlier call has; it gets its name when it is complete."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    if not path.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        make(unfinished)
        os.replace(unfinished, path)


def _text(recipe: Recipe, splits: dict[str, Bitext]) -> dict[str, dict[str, Any]]:
    """Tokenise, clean and split if the recipe says so, and lower-case; the fields of each split."""
    print("tokenising")
    change = _joined_subwords if recipe.tokenised else _moses()
    splits = {split: bitext.mapped(change) for split, bitext in splits.items()}
    if recipe.cleaned:
        pairs = len(splits["train"])
        splits["train"], splits["valid"] = splits["train"].cleaned().split()
        kept = len(splits["train"]) + len(splits["valid"])
        print(f"{pairs} training pairs, {pairs - kept} dropped as too long, empty or too unlike in length")
    return {split: asdict(bitext.mapped(lambda line, _: line.lower())) for split, bitext in splits.items()}


def _moses() -> Callable[[str, str], str]:
    """Moses' tokeniser, as a function of a sentence and its language."""
    from sacremoses import MosesTokenizer

    tokenisers = {language: MosesTokenizer(language) for language in LANGUAGES}
    return lambda line, language: str(tokenisers[language].tokenize(line, return_str=True))


def _joined_subwords(line: str, _: str) -> str:
    """Undo a byte-pair encoding, where ``@@`` ends a subword that the next one continues."""
    return f"{line} ".replace("@@ ", "").rstrip()


def _learn(code: Path, train: Bitext, merges: int) -> None:
    """Learn the byte-pair encoding on both sides of the training text."""
    from subword_nmt.learn_bpe import learn_bpe

    print(f"learning {merges} merges")
    lines = (f"{line}\n" for side in train.sides for line in side)
    with code.open("w", encoding="utf-8", newline="\n") as file, redirect_stderr(io.StringIO()):  # no progress bar
        learn_bpe(lines, file, merges)


def _cut(folder: Path, code: Path, splits: dict[str, Bitext]) -> None:
    """Cut the text into subwords; BitextError for a sentence that is too long for a network."""
    from subword_nmt.apply_bpe import BPE

    print("cutting into subwords")
    with code.open(encoding="utf-8", newline="\n") as file:
        encoding = BPE(file)
    folder.mkdir()
    for split, bitext in splits.items():
        cut = bitext.mapped(lambda line, _: str(encoding.process_line(line)))
        cut.check_lengths(MAX_POSITIONS - 1)  # the end of the sentence is a token too
        for side, language in zip(cut.sides, LANGUAGES, strict=True):
            (folder / f"{split}.{language}").write_bytes("".join(f"{line}\n" for line in side).encode())


def _binarise(folder: Path) -> None:
    """Write dictionaries and token files with fairseq."""
    from fairseq.binarizer import FileBinarizer, VocabularyDatasetBinarizer
    from fairseq.data import Dictionary
    from fairseq.tokenizer import tokenize_line

    print("binarising")
    pair, text = "-".join(LANGUAGES), folder / "subwords"
    for language in LANGUAGES:
        dictionary = Dictionary()
        Dictionary.add_file_to_dictionary(str(text / f"train.{language}"), dictionary, tokenize_line, num_workers=1)
        dictionary.finalize()
        dictionary.save(str(folder / f"dict.{language}.txt"))
        binarizer = VocabularyDatasetBinarizer(dictionary)
        for split in SPLITS:
            source, prefix = text / f"{split}.{language}", folder / f"{split}.{pair}.{language}"
            summary = FileBinarizer.multiprocess_dataset(
                str(source), "mmap", binarizer, str(prefix), vocab_size=len(dictionary)
            )
            counts = f"{summary.num_seq} sentences, {summary.num_tok} tokens, {summary.replaced_percent:.2f} % unknown"
            print(f"{split}.{language}: {counts}; {len(dictionary)} words")
