"""Kept weights are scored as the run scored them."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from llqr_sam.engine.records.weights import WEIGHTS
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.weights.evaluation import evaluate

HERE = Command.of("device=cpu")


def test_the_score_is_the_records_bit_for_bit(run):
    found = evaluate(run, HERE)
    last = run.record.metrics.curve[-1]
    assert (found.scores.top1, found.scores.test_loss) == (last.top1, last.test_loss)
    lines = list(found.lines())
    assert lines[0].startswith(f"{run.run_id}: {last.top1:.2f} % on the test set, on ")
    assert lines[-1].endswith("(epoch 1), the same bit for bit")


def test_another_score_in_the_record_is_told(run):
    metrics = run.record.metrics
    other = replace(metrics, last=replace(metrics.last, top1=metrics.last.top1 - 1))
    lines = list(evaluate(replace(run, record=replace(run.record, metrics=other)), HERE).lines())
    assert "; here +1 and +0" in lines[-1]


@pytest.mark.slow
def test_sharpness_is_that_of_training(run):
    found = evaluate(run, Command.of("device=cpu", "sharpness=true", "sharpness_samples=64"))
    assert found.flatness is not None
    assert (found.flatness.samples, found.flatness.rho) == (64, Command.of().value("protocol.methods.rho"))
    assert list(found.lines())[-1].startswith("trace ")


def copied(run, folder):
    """The run with its weights in another workspace, to be changed."""
    shutil.copytree(run.folder, folder / run.run_id)
    return replace(run, folder=folder / run.run_id)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda run: (run.folder / WEIGHTS).unlink(),
            "has no weights.pt in .*: to get its weights, train it again with",
        ),
        (lambda run: (run.folder / WEIGHTS).write_bytes(b"none"), "weights.pt does not hold weights: "),
        (
            lambda run: torch.save({"head.weight": torch.zeros(2)}, run.folder / WEIGHTS),
            r"weights.pt holds other weights, [0-9a-f]{12}, than the run's, [0-9a-f]{12}",
        ),
    ],
    ids=["missing", "damaged", "others"],
)
def test_weights_that_are_not_the_runs(change, reason, run, tmp_path):
    own = copied(run, tmp_path)
    change(own)
    with pytest.raises(UsageError, match=reason):
        evaluate(own, HERE)


def test_what_cannot_be_evaluated(run):
    record = run.record
    with pytest.raises(UsageError, match="has not ended"):
        evaluate(replace(run, record=None), HERE)
    with pytest.raises(
        UsageError, match=f"dataset=digits has the data {record.data_sha256[:12]} here, the record is of"
    ):
        evaluate(replace(run, record=replace(record, data_sha256="0" * 64)), HERE)
    with pytest.raises(UsageError, match="weights=best has no use with dataset=digits"):
        evaluate(run, HERE, best=True)
    with pytest.raises(UsageError, match="device=cuda:9"):
        evaluate(run, Command.of("device=cuda:9"))
