"""Several processes on one stream: their shares together are the minibatches of one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llqr_sam.data.loading import Splits
from llqr_sam.data.streams import Share


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_disjoint_and_complete(count: int) -> None:
    for size in (0, 1, 5, 64, 500):
        places = [place for index in range(count) for place in range(size)[Share(index, count).of(size)]]
        assert places == list(range(size))


def _put_together(pieces: list[list[tuple[torch.Tensor, torch.Tensor]]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (torch.cat([images for images, _ in shares]), torch.cat([labels for _, labels in shares]))
        for shares in zip(*pieces, strict=True)
    ]


@pytest.mark.parametrize("name", ["digits", "imagenet"])
def test_shares_of_a_stream_are_its_minibatches(
    name: str, load_with: Callable[..., Splits], request: pytest.FixtureRequest
) -> None:
    """Order and augmentation are those of one process, bit for bit, resumed in mid-epoch too."""
    path: Path | None = request.getfixturevalue("shared") / "data/imagenet_sample" if name == "imagenet" else None
    whole = load_with(name, path=path, batch_size=36)
    parts = [load_with(name, path=path, batch_size=36, share=Share(index, 3)) for index in range(3)]
    start = whole.train.steps_per_epoch - 2
    expected = list(whole.train.batches(1, start))
    found = _put_together([list(part.train.batches(1, start)) for part in parts])
    expected.append(whole.train.sample(8, 9))
    found += _put_together([[part.train.sample(8, 9)] for part in parts])
    for (images, labels), (expected_images, expected_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, expected_images)
        assert torch.equal(labels, expected_labels)
    assert {part.train.steps_per_epoch for part in parts} == {whole.train.steps_per_epoch}
    assert all(list(part.train.batches(0, part.train.steps_per_epoch)) == [] for part in parts)
    tests = [torch.cat([labels for _, labels in splits.test]) for splits in (whole, *parts)]
    assert torch.equal(torch.cat(tests[1:]), tests[0])
    assert sum(map(len, tests[1:])) == whole.samples.test


def test_a_process_decodes_only_its_share(
    shared: Path, load_with: Callable[..., Splits], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llqr_sam.data import imagenet

    decoded = []
    opened = imagenet.open_rgb
    monkeypatch.setattr(imagenet, "open_rgb", lambda file: decoded.append(file) or opened(file))
    path = shared / "data/imagenet_sample"
    splits = load_with("imagenet", path=path, batch_size=20, share=Share(1, 4))
    next(splits.train.batches(0))
    assert len(decoded) == 5
