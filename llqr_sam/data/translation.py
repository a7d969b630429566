"""Translation data: fairseq's binarised sentence pairs in batches of bounded size.

The batches of an epoch, their order and their padding are those of ``fairseq-train`` with the same seed and
``--max-tokens``. A minibatch is ``((source, previous), targets)``: source tokens ``[B, S]`` padded on the left, the
target shifted right ``[B, T]`` and the target ``[B, T]`` padded on the right, all int64. Padding in ``targets`` is
torch's ``IGNORED``, so that everything that counts targets (loss, likelihood, error) leaves it out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llqr_sam.data.streams import MissingDataError, Samples, draw_sample, existing
from llqr_sam.fairseq_compat import ensure_fairseq

CORPORA: tuple[str, ...] = ("iwslt14", "multi30k")
LANGUAGES = ("de", "en")  # source, target
IGNORED = -100
MAX_POSITIONS = 1024  # tokens of a sentence and its end that a network takes, as in fairseq
_MULTIPLE = 8  # fairseq's --required-batch-size-multiple

Pair = tuple[tuple[Tensor, Tensor], Tensor]


class PairBatches:
    """Sentence pairs in batches of at most ``max_tokens`` tokens on either side, padding included.

    As an iterable it has every pair once: the numbers of the pairs of a batch, and the minibatch. As a ``TrainStream``
    it has minibatches whose sizes differ.

    Args:
        pairs: fairseq's ``LanguagePairDataset``.
        max_tokens: Bound on sentences times the longest side of a batch.
        seed: Breaks ties between sentences of equal length and, with the epoch, determines the order of the batches.
        device: Where batches are put.
        name: Data set, for messages.

    Raises:
        ValueError: A sentence is longer than ``max_tokens``.
    """

    def __init__(self, pairs: Any, max_tokens: int, seed: int, device: torch.device, name: str) -> None:
        from fairseq.data import data_utils

        longest = max(int(pairs.src_sizes.max()), int(pairs.tgt_sizes.max()))
        if longest > max_tokens:
            raise ValueError(
                f"protocol.max_tokens={max_tokens} does not fit dataset={name}: its longest line has {longest} tokens."
            )
        self.pairs, self._seed, self._device = pairs, seed, device
        with data_utils.numpy_seed(seed):
            order = pairs.ordered_indices()
        self._batches = pairs.batch_by_size(order, max_tokens=max_tokens, required_batch_size_multiple=_MULTIPLE)
        self.size, self.steps_per_epoch = len(pairs), len(self._batches)

    def __iter__(self) -> Iterator[tuple[list[int], Pair]]:
        return map(self._collate, self._batches)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Pair]:
        """Minibatches of an epoch, from number ``start`` on; epoch e is fairseq's e + 1, which counts from 1."""
        from fairseq.data import data_utils

        order = list(self._batches)
        with data_utils.numpy_seed(self._seed + epoch + 1):
            np.random.shuffle(order)  # noqa: NPY002  # the generator that fairseq seeds
        for batch in order[start:]:
            yield self._collate(batch)[1]

    def sample(self, step: int, size: int) -> Pair:
        """The preconditioner minibatch of an optimizer step; ``size`` counts sentence pairs."""
        return self._collate(draw_sample(step, size, self.size, self._seed).tolist())[1]

    def _collate(self, chosen: Sequence[int]) -> tuple[list[int], Pair]:
        """The minibatch of the chosen pairs, longest source first, and their numbers in that order."""
        sample = self.pairs.collater([self.pairs[int(i)] for i in chosen])
        inputs = sample["net_input"]
        source, previous, targets = (
            x.to(self._device) for x in (inputs["src_tokens"], inputs["prev_output_tokens"], sample["target"])
        )
        padding = targets == self.pairs.tgt_dict.pad()
        return sample["id"].tolist(), ((source, previous), targets.masked_fill(padding, IGNORED))


@dataclass(frozen=True)
class Corpus:
    """A loaded translation data set; the network is tested on the validation pairs during training."""

    dictionaries: tuple[Any, Any]  # fairseq's, of source and target
    train: PairBatches
    valid: PairBatches
    fingerprint: str  # SHA-256 of the dictionaries and the binarised training and validation text

    @property
    def samples(self) -> Samples:
        return Samples(self.train.size, self.valid.size)


def load_corpus(
    name: str, *, path: Path | None, root: Path, max_tokens: int, seed: int, device: torch.device
) -> Corpus:
    """Load what scripts/prepare_iwslt14.py (or fairseq-preprocess) made: ``path``, or ``root/name`` if it is None.

    ``name`` is one of ``CORPORA``; the other arguments are those of ``PairBatches``.

    Raises:
        MissingFairseqError: fairseq is not installed.
        MissingDataError: The folder or a file in it does not exist.
        ValueError: Sides that do not correspond, a line that is empty or too long, a dictionary of other data.
    """
    ensure_fairseq()
    folder = (path or root / name).expanduser()
    fingerprint = corpus_fingerprint(name, folder)
    dictionaries = _dictionary(folder, LANGUAGES[0]), _dictionary(folder, LANGUAGES[1])
    train, valid = (
        PairBatches(_pairs(folder, split, dictionaries), max_tokens, seed, device, name) for split in ("train", "valid")
    )
    return Corpus(dictionaries, train, valid, fingerprint)


def ensure_corpus(name: str, folder: Path) -> None:
    """Raise MissingDataError if there is no such folder."""
    if not folder.is_dir():
        source = "" if name == "iwslt14" else f" --name {name} --source FOLDER"
        raise MissingDataError(
            f"dataset={name} is not at {folder}. Prepare it with: python scripts/prepare_iwslt14.py{source}"
        )


def corpus_fingerprint(name: str, folder: Path) -> str:
    """The fingerprint that ``load_corpus`` would find in a folder; does not need fairseq.

    Raises:
        MissingDataError: The folder or a file in it does not exist.
    """
    ensure_corpus(name, folder)
    digest = hashlib.sha256()
    for language in LANGUAGES:
        binaries = [f"{_prefix(split, language)}.{kind}" for split in ("train", "valid") for kind in ("idx", "bin")]
        for file in (f"dict.{language}.txt", *binaries):
            digest.update(existing(folder / file).read_bytes())
    return digest.hexdigest()


def _prefix(split: str, language: str) -> str:
    """fairseq's name for the binarised text of a split in one language."""
    return f"{split}.{'-'.join(LANGUAGES)}.{language}"


def _dictionary(folder: Path, language: str) -> Any:
    from fairseq.data import Dictionary

    file = folder / f"dict.{language}.txt"
    try:
        return Dictionary.load(str(file))
    except Exception as error:  # fairseq raises many types for another format
        raise ValueError(f"{file} is not a dictionary of fairseq: {' '.join(str(error).split())}") from error


def _pairs(folder: Path, split: str, dictionaries: tuple[Any, Any]) -> Any:
    """The checked pairs of a split."""
    from fairseq.data import LanguagePairDataset

    prefixes = [folder / _prefix(split, language) for language in LANGUAGES]
    source, target = (_side(prefix, dictionary) for prefix, dictionary in zip(prefixes, dictionaries, strict=True))
    if len(source) != len(target):
        raise ValueError(
            f"{prefixes[0]}.bin has {len(source)} lines and {prefixes[1]}.bin {len(target)}: line "
            f"{min(len(source), len(target)) + 1} has no other side."
        )
    if split == "train" and (folder / "recipe.json").exists():
        for side, dictionary, language in zip((source, target), dictionaries, LANGUAGES, strict=True):
            _check_counts(folder / f"dict.{language}.txt", dictionary, side)
    sides = (source, source.sizes, dictionaries[0], target, target.sizes, dictionaries[1])
    return LanguagePairDataset(*sides, left_pad_source=True, left_pad_target=False, shuffle=split == "train")


def _side(prefix: Path, dictionary: Any) -> Any:
    """The checked sentences of one language of a split."""
    from fairseq.data import data_utils

    file = f"{prefix}.bin"
    try:
        side = data_utils.load_indexed_dataset(str(prefix), dictionary, "mmap")
        sentences = [side[i] for i in range(len(side))]
    except Exception as error:
        raise ValueError(f"{file} is damaged: {' '.join(str(error).split())}") from error
    if not sentences:
        raise ValueError(f"{file} has no lines.")
    for number, sentence in enumerate(sentences, start=1):
        where, words = f"{file}, line {number}", len(dictionary)
        if len(sentence) < 2:  # the end of the sentence alone
            raise ValueError(f"{where}: the line is empty.")
        if len(sentence) > MAX_POSITIONS:
            raise ValueError(f"{where}: {len(sentence)} tokens, but a network takes {MAX_POSITIONS} at most.")
        if (token := int(sentence.max())) >= words:
            found = f"token {token} is not in the dictionary, which has {words} words"
            raise ValueError(f"{where}: {found}: it was made for other data.")
    return side


def _check_counts(file: Path, dictionary: Any, side: Any) -> None:
    """Compare the counts in a dictionary made here with the words of the training text."""
    tokens = torch.cat([side[i] for i in range(len(side))])
    found = torch.bincount(tokens, minlength=len(dictionary)).tolist()
    for line, number in enumerate(range(dictionary.nspecial, len(dictionary)), start=1):
        if found[number] != dictionary.count[number]:
            raise ValueError(
                f"{file}, line {line}: it counts {dictionary[number]} {dictionary.count[number]} times, the training "
                f"text has it {found[number]} times: it was made for other data."
            )
