"""From parallel text to what fairseq trains on: tokenised, lower-cased, cut into subwords, binarised.

The steps are those of fairseq's ``prepare-iwslt14.sh`` and ``fairseq-preprocess``, with sacremoses for Moses' scripts:
one byte-pair encoding learned on both languages of the training text, one dictionary a language. Each file is finished
under another name before it gets its own, in a folder that becomes the data set when everything is in it; an
interrupted preparation goes on with what is missing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path

from llqr_sam.data.bitext import LANGUAGES, SPLITS, Bitext, BitextError, holds_iwslt14, read_archive, read_folder
from llqr_sam.data.download import Progress, Source, fetch, locked, verified
from llqr_sam.fairseq_compat import ensure_fairseq

ARCHIVE_URL = "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"  # fairseq's prepare-iwslt14.sh
LONGEST = 1024 - 1  # subwords of a sentence: fairseq's max_positions less the end of the sentence
JOINT = "@@ "  # ends a subword that the next one continues

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """What a prepared folder was made from, kept in it as ``recipe.json``."""

    text_sha256: str  # of the archive, or of the folder's sentences
    merges: int
    tokenised: bool
    cleaned: bool

    @classmethod
    def of_folder(cls, folder: Path) -> Recipe | None:
        """The recipe in a folder; ``None`` where there is none that can be read."""
        try:
            return cls(**json.loads((folder / "recipe.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


def prepare_archive(
    target: Path,
    *,
    merges: int,
    archive: Path | None = None,
    sha256: str | None = None,
    url: str = ARCHIVE_URL,
    say: Say = print,
    progress: Progress = lambda done, total: None,
) -> bool:
    """Make ``target`` from the IWSLT14 archive, as fairseq's recipe does.

    Args:
        target: Folder of the data set.
        merges: Operations of the byte-pair encoding.
        archive: A local copy of the archive, instead of a download.
        sha256: What a download must hash to. Nobody has published it: without it the download's test sentences must be
            those of IWSLT14 (``holds_iwslt14``), or it is refused after it is there, with what it hashes to.
        url: Where it is downloaded from.
        say: Told of each step.
        progress: Told of the download.

    Returns:
        Whether this call made it; it may have been there.

    Raises:
        BitextError, PreparationError, OSError: The archive or the download is not what it should be, or ``target`` was
            made from other text or settings.
    """
    found = Recipe.of_folder(target)
    if archive is None and sha256 is None and found is not None:  # no need to download what it was made from
        _require(target, found == Recipe(found.text_sha256, merges, tokenised=False, cleaned=True))
        return False
    ensure_fairseq()
    source = Source(url, sha256, "SHA-256")
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / f".{target.name}.lock"):
        file = verified(archive, source) if archive else fetch(source, target.parent, progress, holds_iwslt14)
        digest = source.digest(file)
        say(f"{file}: SHA-256 {digest}")
        made = _prepare(target, Recipe(digest, merges, tokenised=False, cleaned=True), lambda: read_archive(file), say)
        if archive is None:
            file.unlink()
    return made


def prepare_folder(
    target: Path, folder: Path, *, merges: int, train: str | None = None, tokenised: bool = False, say: Say = print
) -> bool:
    """Make ``target`` from a folder of text files (``read_folder``), every line of which is used.

    Args:
        target: Folder of the data set.
        folder: The text.
        merges: Operations of the byte-pair encoding.
        train: Stem of the training files, if it is not ``train``.
        tokenised: The text is tokenised, and may be cut into subwords joined by ``@@``: these are put together again,
            and the text is not tokenised another time.
        say: Told of each step.

    Returns:
        Whether this call made it; it may have been there.

    Raises:
        BitextError: The text is not what it should be, or ``target`` was made from another one.
    """
    ensure_fairseq()
    splits = read_folder(folder, train)
    digest = hashlib.sha256()
    for split in SPLITS:
        for side in splits[split].sides:
            digest.update("\n".join([split, *side]).encode())
    recipe = Recipe(digest.hexdigest(), merges, tokenised, cleaned=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / f".{target.name}.lock"):
        return _prepare(target, recipe, lambda: splits, say)


def _prepare(target: Path, recipe: Recipe, read: Callable[[], dict[str, Bitext]], say: Say) -> bool:
    """The steps, each left out where an earlier call has done it; under the lock."""
    if target.exists():
        _require(target, Recipe.of_folder(target) == recipe)
        return False
    scratch = target.with_name(f".{target.name}.partial")
    if scratch.exists() and Recipe.of_folder(scratch) != recipe:
        shutil.rmtree(scratch)
    scratch.mkdir(exist_ok=True)
    with _finished(scratch / "recipe.json") as path:
        path.write_text(json.dumps(asdict(recipe), indent=1) + "\n")
    text = _text(scratch / "text", recipe, read, say)
    code = _code(scratch, text["train"], recipe.merges, say)
    _cut(scratch / "subwords", code, text, say)
    _binarise(scratch, say)
    os.replace(scratch, target)
    return True


def _require(target: Path, same: bool) -> None:
    if not same:
        raise BitextError(f"{target} holds data made from other text or settings: remove it, or name another one.")


def _text(folder: Path, recipe: Recipe, read: Callable[[], dict[str, Bitext]], say: Say) -> dict[str, Bitext]:
    """Tokenised, lower-cased, and where the recipe says so cleaned and split."""
    if not folder.exists():
        say("tokenising")
        splits = {
            split: bitext.mapped(_joined_subwords if recipe.tokenised else _Tokenise())
            for split, bitext in read().items()
        }
        if recipe.cleaned:
            pairs = len(splits["train"])
            splits["train"], splits["valid"] = splits["train"].cleaned().split()
            kept = len(splits["train"]) + len(splits["valid"])
            say(f"{pairs} training pairs, {pairs - kept} dropped as too long, empty or too unlike in length")
        splits = {split: splits[split].mapped(lambda line, _: line.lower()) for split in SPLITS}
        with _finished(folder) as unfinished:
            unfinished.mkdir()
            for split, bitext in splits.items():
                _write(unfinished, split, bitext)
                origin = {"files": bitext.files, "numbers": bitext.numbers}
                (unfinished / f"{split}.json").write_text(json.dumps(origin))
    return {split: _read(folder, split) for split in SPLITS}


class _Tokenise:
    """Moses' tokeniser, one a language."""

    def __init__(self) -> None:
        from sacremoses import MosesTokenizer

        self._tokenisers = {language: MosesTokenizer(language) for language in LANGUAGES}

    def __call__(self, line: str, language: str) -> str:
        tokenised: str = self._tokenisers[language].tokenize(line, return_str=True)
        return tokenised


def _joined_subwords(line: str, language: str) -> str:
    return f"{line} ".replace(JOINT, "").rstrip()


def _code(folder: Path, train: Bitext, merges: int, say: Say) -> Path:
    """The byte-pair encoding of both sides of the training text."""
    code = folder / "code"
    if not code.exists():
        from subword_nmt.learn_bpe import learn_bpe

        say(f"learning {merges} merges")
        lines = (f"{line}\n" for side in train.sides for line in side)
        with (
            _finished(code) as unfinished,
            unfinished.open("w", encoding="utf-8", newline="\n") as file,
            redirect_stderr(io.StringIO()),  # a progress bar that knows no log files
        ):
            learn_bpe(lines, file, merges)
    return code


def _cut(folder: Path, code: Path, text: dict[str, Bitext], say: Say) -> None:
    """The text in subwords; a sentence too long for a network is refused."""
    if folder.exists():
        return
    from subword_nmt.apply_bpe import BPE

    say("cutting into subwords")
    with code.open(encoding="utf-8", newline="\n") as file:
        encoding = BPE(file)
    with _finished(folder) as unfinished:
        unfinished.mkdir()
        for split, bitext in text.items():
            cut = bitext.mapped(lambda line, _: str(encoding.process_line(line)))
            cut.check_lengths(LONGEST)
            _write(unfinished, split, cut)


def _binarise(folder: Path, say: Say) -> None:
    """Dictionaries and token files, by fairseq."""
    from fairseq.binarizer import FileBinarizer, VocabularyDatasetBinarizer
    from fairseq.data import Dictionary
    from fairseq.tokenizer import tokenize_line

    say("binarising")
    pair = "-".join(LANGUAGES)
    for language in LANGUAGES:
        dictionary = Dictionary()
        Dictionary.add_file_to_dictionary(
            str(folder / "subwords" / f"train.{language}"), dictionary, tokenize_line, num_workers=1
        )
        dictionary.finalize()
        dictionary.save(str(folder / f"dict.{language}.txt"))
        for split in SPLITS:
            text, prefix = folder / "subwords" / f"{split}.{language}", folder / f"{split}.{pair}.{language}"
            summary = FileBinarizer.multiprocess_dataset(
                str(text), "mmap", VocabularyDatasetBinarizer(dictionary), str(prefix), vocab_size=len(dictionary)
            )
            counts = f"{summary.num_seq} sentences, {summary.num_tok} tokens, {summary.replaced_percent:.2f} % unknown"
            say(f"{split}.{language}: {counts}; {len(dictionary)} words")


def _write(folder: Path, split: str, bitext: Bitext) -> None:
    for side, language in zip(bitext.sides, LANGUAGES, strict=True):
        (folder / f"{split}.{language}").write_bytes("".join(f"{line}\n" for line in side).encode())


def _read(folder: Path, split: str) -> Bitext:
    """What ``_text`` wrote."""
    origin = json.loads((folder / f"{split}.json").read_text())
    texts = ((folder / f"{split}.{language}").read_text("utf-8").removesuffix("\n") for language in LANGUAGES)
    source, target = (text.split("\n") for text in texts)
    return Bitext((source, target), tuple(origin["files"]), origin["numbers"])


@contextmanager
def _finished(path: Path) -> Iterator[Path]:
    """A path that becomes ``path`` when the block ends well."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    unfinished.unlink(missing_ok=True)
    yield unfinished
    os.replace(unfinished, path)
