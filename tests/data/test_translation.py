"""Batches of sentence pairs, and what damaged data gets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llqr_sam.data.streams import MissingDataError
from llqr_sam.data.translation import CORPORA, IGNORED, Corpus, load_corpus

pytestmark = pytest.mark.nmt

PADDING, END = 1, 2  # fairseq's


def load(root: Path, max_tokens: int = 300, seed: int = 0) -> Corpus:
    return load_corpus("multi30k", path=None, root=root, max_tokens=max_tokens, seed=seed, device=torch.device("cpu"))


def test_an_epoch_holds_every_pair_once_in_bounded_batches(captions: Path) -> None:
    train = load(captions).train
    batches = list(train.batches(0))
    assert len(batches) == train.steps_per_epoch
    assert sum(len(targets) for _, targets in batches) == train.size == 600
    for (source, previous), targets in batches:
        assert max(source.numel(), targets.numel()) <= 300
        assert previous.shape == targets.shape
        kept = targets != IGNORED
        assert (previous[:, 0] == END).all()
        assert torch.equal(previous[:, 1:][kept[:, 1:]], targets[:, :-1][kept[:, 1:]])
        assert (targets.masked_fill(~kept, PADDING) == PADDING).sum() == (~kept).sum()
        assert (source[:, -1] == END).all()  # padded on the left


def test_batches_are_a_function_of_seed_epoch_and_number(captions: Path) -> None:
    """A stream begun in the middle of an epoch yields what the whole epoch yields from there."""
    train, again, other = load(captions).train, load(captions).train, load(captions, seed=1).train
    whole = list(train.batches(3))
    for expected, found in zip(whole[5:], again.batches(3, start=5), strict=True):
        assert torch.equal(expected[0][0], found[0][0])
        assert torch.equal(expected[1], found[1])
    assert not torch.equal(whole[0][1], next(train.batches(4))[1])
    assert not torch.equal(whole[0][1], next(other.batches(3))[1])


def test_the_refresh_minibatch_is_a_function_of_the_step(captions: Path) -> None:
    train = load(captions).train
    first, same, other = train.sample(500, 48), load(captions).train.sample(500, 48), train.sample(1000, 48)
    assert len(first[1]) == 48
    assert torch.equal(first[1], same[1])
    assert first[1].shape != other[1].shape or not torch.equal(first[1], other[1])
    with pytest.raises(ValueError, match="601 cannot be drawn"):
        train.sample(0, 601)


def test_validation_pairs_come_in_the_order_of_their_numbers(captions: Path) -> None:
    valid = load(captions).valid
    numbers = [number for batch, _ in valid for number in batch]
    assert sorted(numbers) == list(range(40))


def test_a_line_longer_than_max_tokens_is_refused(captions: Path) -> None:
    with pytest.raises(ValueError, match=r"protocol.max_tokens=10 does not fit dataset=multi30k: its longest line"):
        load(captions, max_tokens=10)


@pytest.mark.parametrize("name", CORPORA)
def test_nothing_is_downloaded(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"python scripts/prepare_iwslt14.py"):
        load_corpus(name, path=None, root=tmp_path, max_tokens=300, seed=0, device=torch.device("cpu"))


def without_a_side(folder: Path) -> None:
    (folder / "train.de-en.en.bin").unlink()


def with_sides_of_other_lengths(folder: Path) -> None:
    for suffix in ("bin", "idx"):
        shutil.copy(folder / f"valid.de-en.en.{suffix}", folder / f"train.de-en.en.{suffix}")


def with_the_dictionary_of_other_data(folder: Path) -> None:
    (folder / "dict.en.txt").write_text("".join(f"w{number} 1\n" for number in range(20)))


def with_the_other_sides_dictionary(folder: Path) -> None:
    shutil.copy(folder / "dict.de.txt", folder / "dict.en.txt")


def with_no_dictionary(folder: Path) -> None:
    (folder / "dict.de.txt").write_text("ein Satz ohne Zahl\n")


def with_a_damaged_file(folder: Path) -> None:
    path = folder / "train.de-en.de.idx"
    path.write_bytes(path.read_bytes()[:100])


def with_sentence(words: int) -> Callable[[Path], None]:
    """The third validation sentence gets that many words."""

    def change(folder: Path) -> None:
        from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

        path = str(folder / "valid.de-en.de")
        builder = MMapIndexedDatasetBuilder(f"{path}.bin")
        for number in range(40):
            builder.add_item(torch.tensor([5] * (words if number == 2 else 3) + [END]))
        builder.finalize(f"{path}.idx")

    return change


def test_a_fingerprint_sees_text_and_dictionaries(captions: Path, tmp_path: Path) -> None:
    plain = load(captions).fingerprint
    shutil.copytree(captions / "multi30k", tmp_path / "multi30k")
    assert load(tmp_path).fingerprint == plain
    with_sentence(4)(tmp_path / "multi30k")
    assert load(tmp_path).fingerprint != plain


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without_a_side, r"train.de-en.en.bin is missing"),
        (with_sides_of_other_lengths, r"train.de-en.de.bin has 600 lines and .*train.de-en.en.bin 40: line 41 has no"),
        (with_the_dictionary_of_other_data, r"train.de-en.en.bin, line 1: token \d+ is not in the dictionary"),
        (
            with_the_other_sides_dictionary,
            r"dict.en.txt, line 1: it counts \S+ \d+ times, the training text has it \d+",
        ),
        (with_no_dictionary, r"dict.de.txt is not a dictionary of fairseq"),
        (with_a_damaged_file, r"train.de-en.de.bin is damaged"),
        (with_sentence(0), r"valid.de-en.de.bin, line 3: the line is empty"),
        (with_sentence(1024), r"valid.de-en.de.bin, line 3: 1025 tokens, but a network takes 1024 at most"),
    ],
)
def test_damage_is_named(damage: Callable[[Path], None], words: str, captions: Path, tmp_path: Path) -> None:
    shutil.copytree(captions / "multi30k", tmp_path / "multi30k")
    damage(tmp_path / "multi30k")
    with pytest.raises((ValueError, MissingDataError), match=words) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
