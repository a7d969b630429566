"""What the loop promises, on real digits: resuming is bit for bit, and nothing bad goes unnoticed."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from llqr_sam.data import loading as data
from llqr_sam.data.arrays import ImageArrays
from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.loop.run import execute
from llqr_sam.engine.loop.trainer import CheckpointMismatchError, Trainer
from llqr_sam.engine.observers.observer import Observer
from llqr_sam.engine.records.checkpoint import CheckpointStore
from llqr_sam.engine.records.record import CurvePoint, Metrics, Record, RefreshPoint, Seconds
from llqr_sam.engine.settings.run_settings import RunOptions, RunSettings
from llqr_sam.engine.tasks.classification import Classification
from tests.engine.conftest import METHODS, StopAt

CPU = torch.device("cpu")
NO_SECONDS = Seconds(0, 0, 0, 0, 0, 0)


def timeless(record: Record) -> Record:
    """The record without what may differ between a run and the same run interrupted."""
    return dataclasses.replace(
        record,
        metrics=Metrics.from_curve([dataclasses.replace(point, seconds=0) for point in record.metrics.curve]),
        refreshes=[dataclasses.replace(point, seconds=0) for point in record.refreshes],
        seconds=NO_SECONDS,
        started="",
        resumes=0,
    )


def weights(options: RunOptions, settings: RunSettings) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = torch.load(options.workspace / settings.run_id / "weights.pt", weights_only=True)
    return loaded


def run_in_pieces(settings: RunSettings, options: RunOptions, stops: list[Observer]) -> Record:
    """Interrupt one run by each of ``stops`` in turn, then let it finish."""
    for stop in stops:
        with pytest.raises(Interrupted):
            execute(settings, options, [stop])
    return execute(settings, options)


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.slow if name in ("llqr", "llqr_f_sam") else ()) for name in METHODS]
)
def test_resume_is_bitwise(method: str, make_settings: Callable[..., RunSettings], make_options: Any) -> None:
    """Stopped at random steps, around a refresh (before steps 8, 16, ...), mid-epoch, before and after an evaluation.

    An epoch is 15 to 25 steps here (asserted below), so 8 is due early in the first.
    """
    settings = make_settings(method)
    whole = execute(settings, make_options("whole"))
    epoch = whole.metrics.curve[0].step
    assert 12 <= epoch < 30
    anywhere = random.Random(method).sample(range(10, epoch), 2)
    steps = sorted({7, 8, 9, *anywhere, epoch})
    stops = [*map(StopAt, steps), StopAt(epoch=1), StopAt(step=epoch + 1), StopAt(step=2 * epoch)]
    pieces = run_in_pieces(settings, make_options("pieces"), stops)

    expected, found = weights(make_options("whole"), settings), weights(make_options("pieces"), settings)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert timeless(pieces) == timeless(whole)
    assert pieces.resumes == len(stops)
    assert [point.step for point in whole.refreshes] == (list(range(0, 2 * epoch, 8)) if "llqr" in method else [])


class Crash(Exception):
    """Stands for whatever ends a process without notice."""


class CrashAt(Observer):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, step: int, loss: float) -> None:
        if step == self.step:
            raise Crash


def test_a_crash_costs_the_steps_since_the_last_checkpoint(make_settings: Any, make_options: Any) -> None:
    """Checkpoints at every step; the crash comes before the one of its own step."""
    settings = make_settings("llqr_sam")
    whole = execute(settings, make_options("whole"))
    options = make_options("crashed", checkpoint_minutes=0)
    for step in (9, 17):
        with pytest.raises(Crash):
            execute(settings, options, [CrashAt(step)])
        found = CheckpointStore(options.workspace / settings.run_id / "checkpoints").load_latest()
        assert found is not None
        assert found[0] == step - 1
    assert timeless(execute(settings, options)) == timeless(whole)


def test_a_damaged_checkpoint_costs_one_checkpoint(make_settings: Any, make_options: Any) -> None:
    settings = make_settings()
    whole = execute(settings, make_options("whole"))
    options = make_options("damaged", checkpoint_minutes=0)
    with pytest.raises(Crash):
        execute(settings, options, [CrashAt(9)])
    newest = max((options.workspace / settings.run_id / "checkpoints").glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    assert timeless(execute(settings, options)) == timeless(whole)


def test_random_numbers_continue_where_they_were(make_settings: Any, tmp_path: Path) -> None:
    """With dropout the weights depend on the global generator, which a checkpoint carries."""
    settings = make_settings("sam")

    def train(folder: Path, stop: int | None = None) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))
        observer = StopAt(stop)
        trainer = make_trainer(settings, model, folder, [observer])
        observer.request_stop = trainer.stop
        trainer.load()
        trainer.run()
        return trainer.model.state_dict()

    expected = train(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(tmp_path / "pieces", stop=11)
    torch.rand(1000)
    found = train(tmp_path / "pieces")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def digits(settings: RunSettings) -> data.Splits:
    return data.load(
        "digits",
        path=None,
        root=Path("unused"),
        label_noise=0.0,
        crop="image",
        augment=True,
        batch_size=settings.protocol.batch_size,
        seed=0,
        device=CPU,
        workers=0,
    )


def make_trainer(settings: RunSettings, model: nn.Module, folder: Path, observers: Sequence[Observer] = ()) -> Trainer:
    """A trainer of a network that is no arch."""
    with mock.patch.object(Classification, "model", return_value=model):
        return Trainer(settings, RunOptions(folder, folder / "record.json"), CPU, observers)


class Watching(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.epochs: list[CurvePoint] = []
        self.refreshes: list[RefreshPoint] = []
        self.ended: list[Record] = []
        self.closed = 0

    def on_step(self, step: int, loss: float) -> None:
        self.steps.append(step)
        self.losses.append(loss)

    def on_epoch(self, point: CurvePoint) -> None:
        self.epochs.append(point)

    def on_refresh(self, point: RefreshPoint) -> None:
        self.refreshes.append(point)

    def on_end(self, record: Record) -> None:
        self.ended.append(record)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.slow
@pytest.mark.parametrize("every", ["7steps", "10steps", "2epochs", "1000steps"])
def test_evaluations_change_nothing_but_the_curve(every: str, make_settings: Any, make_options: Any) -> None:
    """Every so many steps and at the end; each point is of the weights that a run evaluated there otherwise has."""
    usual = execute(make_settings("llqr_sam", epochs=3), make_options("usual"))
    epoch = usual.metrics.curve[0].step
    record = execute(make_settings("llqr_sam", epochs=3, evaluate_every=every), make_options("other"))
    assert record.weights_sha256 == usual.weights_sha256
    number = int(re.sub(r"\D", "", every)) * (epoch if "epochs" in every else 1)
    curve = record.metrics.curve
    assert [point.step for point in curve] == [*range(number, 3 * epoch, number), 3 * epoch]
    assert [point.epoch for point in curve] == [point.step / epoch for point in curve]
    assert all(isinstance(point.epoch, int) == (point.step % epoch == 0) for point in curve)
    assert record.metrics.best_of == record.metrics.scored == len(curve)
    shared = {point.step: point for point in curve}
    for point in usual.metrics.curve:
        if point.step in shared:
            assert (shared[point.step].top1, shared[point.step].test_loss) == (point.top1, point.test_loss)


def test_resume_between_evaluations_is_bitwise(make_settings: Any, make_options: Any) -> None:
    """Stopped before and after evaluations in mid-epoch and at its end, and between."""
    settings = make_settings("llqr_f_sam", evaluate_every="5steps")
    whole = execute(settings, make_options("whole"))
    epoch = digits(settings).train.steps_per_epoch
    assert whole.metrics.last == whole.metrics.curve[-1].accuracy
    assert whole.metrics.curve[-1].step == 2 * epoch
    stops = [StopAt(4), StopAt(5), StopAt(epoch=10 / epoch), StopAt(12), StopAt(epoch), StopAt(25), StopAt(2 * epoch)]
    pieces = run_in_pieces(settings, make_options("pieces"), stops)
    assert timeless(pieces) == timeless(whole)
    assert pieces.resumes == len(stops)


def test_observers_see_what_the_record_keeps(make_settings: Any, make_options: Any) -> None:
    watching = Watching()
    record = execute(make_settings("llqr_sam"), make_options(), [watching])
    assert watching.steps == list(range(1, record.metrics.last.epoch * record.metrics.curve[0].step + 1))
    assert watching.epochs == record.metrics.curve
    assert watching.refreshes == record.refreshes
    assert watching.ended == [record]
    assert watching.closed == 1
    epoch = record.metrics.curve[0]
    assert watching.losses[epoch.step - 1] == epoch.train_loss


def test_each_epoch_has_its_own_mean_loss(make_settings: Any, make_options: Any) -> None:
    settings, options = make_settings(), make_options()
    epoch = digits(settings).train.steps_per_epoch
    with pytest.raises(Interrupted) as raised:
        execute(settings, options, [StopAt(epoch + 3)])
    found = CheckpointStore(raised.value.checkpoint).load_latest()
    assert found is not None
    assert found[1]["losses"]["count"] == 3


def test_a_network_in_inference_mode_is_trained_all_the_same(make_settings: Any, tmp_path: Path) -> None:
    settings = make_settings("sgdm", epochs=1)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)).eval()
    trainer = make_trainer(settings, model, tmp_path)
    trainer.run()
    assert model[1].num_batches_tracked == trainer.steps_per_epoch


def test_the_learning_rate_reaches_the_base_optimizer(make_settings: Any, tmp_path: Path) -> None:
    settings = make_settings("sam")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    rates: list[float] = []

    class Reading(Observer):
        def on_step(self, step: int, loss: float) -> None:
            rates.append(trainer.method.optimizer.base.param_groups[0]["lr"])  # type: ignore[attr-defined]

    trainer = make_trainer(settings, model, tmp_path, [Reading()])
    trainer.run()
    assert rates == [trainer.rate(step, 0.05) for step in range(2 * trainer.steps_per_epoch)]
    assert rates[0] == 0.05
    assert trainer.state.curve[-1].lr == rates[-1]


def test_training_learns_and_repeats_itself(make_settings: Any, make_options: Any) -> None:
    settings = make_settings("llqr_f_sam", {"interval": 40}, epochs=4)
    first, second = execute(settings, make_options("a")), execute(settings, make_options("b"))
    assert timeless(first) == timeless(second)
    assert first.metrics.best.top1 is not None
    assert first.metrics.best.top1 > 50
    other = execute(dataclasses.replace(settings, seed=1), make_options("c"))
    assert other.weights_sha256 != first.weights_sha256


@pytest.mark.parametrize("method", ["sgdm", "llqr_sam"])
@pytest.mark.parametrize("checkpoint_minutes", [0, 10])
def test_a_loss_that_is_not_finite_ends_the_run(
    method: str, checkpoint_minutes: float, make_settings: Any, make_options: Any
) -> None:
    """The record says diverged and where; the checkpoints on disk are from before, finite and loadable."""
    settings = make_settings(method, {"lr": 1e25})
    options = make_options(checkpoint_minutes=checkpoint_minutes)
    watching = Watching()
    record = execute(settings, options, [watching])
    assert record.status == "diverged"
    assert record.error is not None
    assert " step " in record.error
    assert (watching.ended, watching.closed) == ([record], 1)
    found = CheckpointStore(options.workspace / settings.run_id / "checkpoints").load_latest()
    assert (found is not None) == (checkpoint_minutes == 0)
    if found is not None:
        assert all(torch.isfinite(tensor).all() for tensor in found[1]["model"].values())


@pytest.mark.parametrize(
    ("checkpoint_minutes", "error"),
    [(0, "the weights are not finite after step 0"), (10, "the test loss is nan after step 0")],
)
def test_weights_that_are_not_finite_are_neither_saved_nor_scored(
    checkpoint_minutes: float, error: str, make_settings: Any, make_options: Any
) -> None:
    """One step, whose loss is still finite, and which blows the weights up."""
    whole = digits(make_settings()).train.size
    settings = make_settings("sgdm", {"lr": 3e38, "weight_decay": 1e6}, epochs=1, batch_size=whole)
    options = make_options(checkpoint_minutes=checkpoint_minutes)
    record = execute(settings, options)
    assert record.error == error
    assert record.metrics.curve == []
    assert not list(options.workspace.rglob("step_*"))


def test_a_metric_that_cannot_be_refreshed_ends_the_run(make_settings: Any, make_options: Any) -> None:
    settings = make_settings("llqr", {"inner_lr": 1e38, "inner_steps": 30, "structure": "kfac", "clip_norm": 1e38})
    record = execute(settings, make_options())
    assert record.status == "diverged"
    assert record.error is not None
    assert record.error.startswith("the refresh before step 16 failed: ")
    assert [point.step for point in record.refreshes] == [0, 8]


def test_another_runs_checkpoint_is_refused(make_settings: Any, make_options: Any) -> None:
    settings, other, options = make_settings(), make_settings("adam"), make_options()
    with pytest.raises(Interrupted):
        execute(settings, options, [StopAt(5)])
    (options.workspace / settings.run_id).rename(options.workspace / other.run_id)
    with pytest.raises(CheckpointMismatchError, match=f"of run {settings.run_id}, not of {other.run_id}") as raised:
        execute(other, options)
    assert "\n" not in str(raised.value)


def test_a_checkpoint_on_other_data_is_refused(
    make_settings: Any, make_options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, options = make_settings(), make_options()
    with pytest.raises(Interrupted):
        execute(settings, options, [StopAt(5)])
    with monkeypatch.context() as patch:
        patch.setattr(ImageArrays, "fingerprint", lambda arrays: "other")
        with pytest.raises(
            CheckpointMismatchError, match="is of a run on other data, [0-9a-f]{12} where here are other: name"
        ) as raised:
            execute(settings, options)
    assert "\n" not in str(raised.value)
    record = execute(settings, options)
    assert record.resumes == 1
    assert record.data_sha256 is not None
    assert len(record.data_sha256) == 64


@pytest.mark.parametrize("refresh", ["float32", "bfloat16"])
def test_refreshes_call_the_network_in_the_precision_that_is_asked_for(
    refresh: str, make_settings: Any, make_options: Any
) -> None:
    """In the training steps nothing changes."""
    dtypes: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d) and torch.is_grad_enabled():
            dtypes[module.training].add(output.dtype)

    handle = register_module_forward_hook(hook)
    try:
        settings = make_settings("llqr", {"interval": 20}, refresh=refresh)
        assert execute(settings, make_options("whole")).status == "finished"
    finally:
        handle.remove()
    assert dtypes == {True: {torch.float32}, False: {getattr(torch, refresh)}}


@contextlib.contextmanager
def watched(sees: Callable[[Tensor, Tensor], bool]) -> Iterator[list[bool]]:
    """What ``sees`` says of input and output of each convolution in a training pass."""
    answers: list[bool] = []

    def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d) and module.training:
            answers.append(sees(arguments[0], output))

    handle = register_module_forward_hook(hook)
    try:
        yield answers
    finally:
        handle.remove()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "sees"),
    [
        ({"channels_last": True}, lambda x, z: z.is_contiguous(memory_format=torch.channels_last)),
        ({"accumulate": 3}, lambda x, z: len(x) in (21, 22)),  # of 64
        ({"deterministic": True}, lambda x, z: torch.are_deterministic_algorithms_enabled()),
        ({"autocast": "bfloat16"}, lambda x, z: z.dtype == torch.bfloat16),
    ],
    ids=["channels_last", "accumulate", "deterministic", "bfloat16"],
)
def test_precision(
    precision: dict[str, Any], sees: Callable[[Tensor, Tensor], bool], make_settings: Any, make_options: Any
) -> None:
    """Each way of doing the arithmetic reaches the network, trains to about the same, and resumes bit for bit."""
    with watched(sees) as answers:
        plain = execute(make_settings("llqr_sam", {"interval": 20}), make_options("plain"))
    assert not any(answers)
    settings = make_settings("llqr_sam", {"interval": 20}, **precision)
    with watched(sees) as answers:
        whole = execute(settings, make_options("whole"))
    assert answers
    assert all(answers)
    pieces = run_in_pieces(settings, make_options("pieces"), [StopAt(9), StopAt(20)])
    assert timeless(pieces) == timeless(whole)
    assert whole.metrics.curve[-1].train_loss == pytest.approx(plain.metrics.curve[-1].train_loss, rel=0.2)


def test_label_smoothing_is_in_the_training_loss_alone(make_settings: Any, make_options: Any) -> None:
    """The test loss is the plain cross-entropy of the weights at the end; in training all classes have a share."""
    settings = make_settings(epochs=1, label_smoothing=0.3)
    point = execute(settings, make_options("smooth")).metrics.curve[0]
    splits = digits(settings)
    model = Classification(settings).model(splits)
    model.load_state_dict(weights(make_options("smooth"), settings))
    model.eval()
    with torch.no_grad():
        pairs = [(F.log_softmax(model(images), dim=1), labels) for images, labels in splits.test]
    logs, labels = torch.cat([log for log, _ in pairs]), torch.cat([label for _, label in pairs])
    plain = -logs[torch.arange(len(labels)), labels].mean()
    smooth = 0.7 * plain - 0.3 * logs.mean()
    assert point.test_loss == pytest.approx(float(plain), rel=1e-6)
    assert abs(float(smooth - plain)) > 0.01 * float(plain)  # else the one would pass for the other
    assert float(Classification(settings).loss(logs, labels)) == pytest.approx(float(smooth), rel=1e-6)


def test_seconds_are_split_and_add_up(make_settings: Any, make_options: Any) -> None:
    settings = make_settings("llqr_sam")
    record = run_in_pieces(settings, make_options(), [StopAt(10)])
    parts = dataclasses.asdict(record.seconds)
    total = parts.pop("total")
    assert min(parts.values()) > 0
    assert sum(parts.values()) < total
    assert parts["refresh"] >= 0.9 * sum(point.seconds for point in record.refreshes)
    plain = execute(make_settings("sgdm"), make_options("plain"))
    assert plain.seconds.second_pass == plain.seconds.refresh == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sgdm", "llqr_sam"])
def test_compiled_training_is_close_to_eager(method: str, make_settings: Any, make_options: Any) -> None:
    eager = execute(make_settings(method), make_options("eager"))
    compiled = execute(make_settings(method, compile=True), make_options("compiled"))
    assert compiled.metrics.curve[-1].train_loss == pytest.approx(eager.metrics.curve[-1].train_loss, rel=1e-2)
    assert compiled.parameters == eager.parameters


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["sgdm", "llqr_sam"])
def test_resume_is_bitwise_on_a_gpu_in_deterministic_mode(method: str, make_settings: Any, make_options: Any) -> None:
    settings = make_settings(method, deterministic=True)
    whole = execute(settings, make_options("whole", device="cuda:0"))
    pieces = run_in_pieces(settings, make_options("pieces", device="cuda:0"), [StopAt(8), StopAt(9), StopAt(20)])
    assert timeless(pieces) == timeless(whole)
    parts = dataclasses.asdict(pieces.seconds)
    total = parts.pop("total")
    assert 0 < sum(parts.values()) < total


@pytest.mark.gpu
def test_a_gpu_run_that_diverges_names_the_first_bad_step(make_settings: Any, make_options: Any) -> None:
    """Losses are read late there; the step in the error is that of the CPU all the same."""
    settings = make_settings("sgdm", {"lr": 1e25})
    gpu = execute(settings, make_options("gpu", device="cuda:0"))
    assert gpu.error == execute(settings, make_options("cpu")).error
