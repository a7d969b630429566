"""The fast path is the plain path: same losses, no waiting for the device, one graph each for training and testing."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_preparation import pieces
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from llqr_sam.data.streams import TrainStream
from llqr_sam.engine.devices.device import arithmetic
from llqr_sam.engine.loop.losses import LossLog
from llqr_sam.engine.loop.trainer import Trainer
from llqr_sam.engine.observers.observer import Observer
from llqr_sam.engine.settings.run_settings import ArchSettings, DatasetSettings, RunOptions
from llqr_sam.methods import named

pytestmark = pytest.mark.slow

METHODS = ["sgdm", "adam", "sam", "f_sam", "llqr_sam"]
# In float32 the backward pass in channels_last corrupts memory at width 4 on CPUs without AVX-512 (torch 2.13).
FLOAT32_WIDTH = 8
STEPS = 20
QUIET = range(9, 15)  # steps between two refreshes
WAITING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "repeat_interleave"}

Make = Callable[..., Trainer]


@pytest.fixture(scope="session")
def images(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """640 + 256 real CIFAR-10 images as a file of arrays."""
    folder = tmp_path_factory.mktemp("cifar")
    pieces.join(shared / "data/cifar10_sample", folder / "all.npz")
    with np.load(folder / "all.npz") as arrays:
        sizes = {"train": 32 * STEPS, "test": 256}
        few = {f"{kind}_{part}": arrays[f"{kind}_{part}"][:size] for kind in "xy" for part, size in sizes.items()}
    np.savez(folder / "few.npz", **few)
    return folder / "few.npz"


@pytest.fixture
def make_trainer(make_settings: Any, images: Path, tmp_path: Path) -> Make:
    """``make_trainer(method, **changes)``: a narrow ResNet-18 under the CIFAR recipe, an epoch of ``STEPS`` steps."""

    def make(method: str, device: str = "cpu", width: int = 4, **changes: Any) -> Trainer:
        settings = make_settings(method, **{"batch_size": 32, "epochs": 1} | changes)
        settings = dataclasses.replace(
            settings, dataset=DatasetSettings("cifar10"), arch=ArchSettings("resnet18", width=width)
        )
        options = RunOptions(tmp_path, tmp_path / "record.json", data_path=images)
        return Trainer(settings, options, torch.device(device))

    return make


class Losses(Observer):
    """Collects the loss of every step, and calls ``after`` with the number of steps that are finished."""

    def __init__(self, trainer: Trainer, after: Callable[[int], object] = lambda step: None) -> None:
        self._trainer, self._after = trainer, after
        self.losses: list[Tensor] = []

    def on_step(self, step: int, loss: float) -> None:
        self.losses.append(self._trainer.minibatch.loss)
        self._after(step)


def train(trainer: Trainer, after: Callable[[int], object] = lambda step: None) -> Tensor:
    """Losses of all steps, ``[STEPS]``."""
    observer = Losses(trainer, after)
    trainer.observers = [*trainer.observers, observer]
    trainer.run()
    return torch.stack(observer.losses)


def distances(fast: Trainer, plain: Trainer) -> Tensor:
    """Relative differences of the losses over ``STEPS`` steps, ``[STEPS]``.

    The weights of both are the plain run's before each step: at this learning rate a difference in the last digit
    grows a thousandfold in ten steps, whoever makes it. Momentum, averages and U are each run's own.
    """
    weights = [copy.deepcopy(plain.model.state_dict())]
    expected = train(plain, lambda _: weights.append(copy.deepcopy(plain.model.state_dict())))
    fast.model.load_state_dict(weights[0])
    found = train(fast, lambda step: fast.model.load_state_dict(weights[step]))
    assert len(found) == len(expected) == STEPS
    return (found - expected).abs() / expected


class InDouble:
    """A training stream in float64."""

    def __init__(self, stream: TrainStream) -> None:
        self._stream = stream
        self.steps_per_epoch, self.size = stream.steps_per_epoch, stream.size

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, Tensor]]:
        for inputs, targets in self._stream.batches(epoch, start):
            yield inputs.double(), targets  # type: ignore[union-attr]

    def sample(self, step: int, size: int) -> tuple[Any, Tensor]:
        inputs, targets = self._stream.sample(step, size)
        return inputs.double(), targets  # type: ignore[union-attr]


def double(trainer: Trainer) -> Trainer:
    """The same in float64, where twenty steps leave rounding no room to grow: updates are compared, too."""
    trainer.model.double()
    test = [(inputs.double(), targets) for inputs, targets in trainer.splits.test]  # type: ignore[attr-defined]
    trainer.splits = dataclasses.replace(trainer.splits, train=InDouble(trainer.splits.train), test=test)  # type: ignore[type-var]
    return trainer


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_the_plain_ones(method: str, make_trainer: Make) -> None:
    """In float32, with another memory format and another kernel for the update."""
    fast = make_trainer(method, width=FLOAT32_WIDTH, channels_last=True, fused=True)
    assert distances(fast, make_trainer(method, width=FLOAT32_WIDTH)).max() < 1e-5


@pytest.mark.parametrize("method", ["sgdm", "adam", "sam"])
def test_runs_are_the_plain_ones_in_float64(method: str, make_trainer: Make) -> None:
    plain = train(double(make_trainer(method)))
    assert plain.dtype == torch.float64
    assert plain.min() < plain[0] - 0.05
    fast = train(double(make_trainer(method, channels_last=True, fused=True)))
    torch.testing.assert_close(fast, plain, rtol=1e-9, atol=0)


@pytest.mark.parametrize("method", ["sgdm", "sam"])
def test_compiled_runs_are_the_plain_ones(method: str, make_trainer: Make) -> None:
    everything = {"channels_last": True, "fused": True, "compile": True}
    width = FLOAT32_WIDTH
    assert distances(make_trainer(method, width=width, **everything), make_trainer(method, width=width)).max() < 1e-5
    plain, fast = train(double(make_trainer(method))), train(double(make_trainer(method, **everything)))
    torch.testing.assert_close(fast, plain, rtol=1e-9, atol=0)


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait for a GPU: reading a value, or a result whose shape depends on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        moves = name == "_to_copy" and (kwargs or {}).get("device", args[0].device) != args[0].device
        boolean = name in ("index", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in WAITING or moves or boolean:
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "waits",
    [
        lambda t: bool(t[0] > 0),
        lambda t: t.sum().item(),
        lambda t: float(t[0]),
        lambda t: t[t > 0],
        lambda t: t.nonzero(),
        lambda t: t.index_put_((t > 0,), torch.zeros(())),
        lambda t: torch.equal(t, t + 1),
    ],
)
def test_the_watch_sees_what_waits(waits: Callable[[Tensor], Any]) -> None:
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        waits(torch.ones(3))


@pytest.mark.parametrize("method", METHODS)
def test_a_step_does_not_wait_for_the_device(method: str, make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """From minibatch to update, between two refreshes; losses are read once in a window."""
    monkeypatch.setattr(named, "is_cheap_to_read", lambda tensor: False)  # as on a GPU
    trainer = make_trainer(method, width=FLOAT32_WIDTH, fused=True, channels_last=True)
    trainer.losses = LossLog(trainer.device, window=100)
    with contextlib.ExitStack() as stack:

        def watch(step: int) -> None:
            if step == QUIET.start:
                stack.enter_context(NoWaiting())
            if step == QUIET.stop:
                stack.close()

        losses = train(trainer, watch)
    assert len(losses) == STEPS
    assert torch.isfinite(losses).all()


@pytest.mark.parametrize("method", ["sgdm", pytest.param("llqr_sam", marks=pytest.mark.slow)])
def test_one_graph_for_training_and_one_for_testing(
    method: str, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the second pass nor a refresh nor the next epoch compiles anything."""
    counter, graphs = CompileCounterWithBackend("eager"), []
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    train(make_trainer(method, compile=True, epochs=2), lambda _: graphs.append(counter.frame_count))
    assert graphs == [1] * STEPS + [2] * STEPS
    assert counter.frame_count == 2


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("compile", [False, True])
def test_a_gpus_fast_path_gives_the_plain_losses(method: str, compile: bool, make_trainer: Make) -> None:
    """Everything but bfloat16."""
    everything = {"channels_last": True, "fused": True, "cuda_graphs": True, "compile": compile}
    with arithmetic(deterministic=False):
        fast = make_trainer(method, "cuda:0", **everything)
        assert distances(fast, make_trainer(method, "cuda:0")).max() < 1e-5
        if method in ("sgdm", "adam", "sam"):
            plain = train(double(make_trainer(method, "cuda:0")))
            fast = double(make_trainer(method, "cuda:0", **everything))
            torch.testing.assert_close(train(fast), plain, rtol=1e-9, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_replayed_graphs_change_no_bit(method: str, make_trainer: Make) -> None:
    """The same kernels in the same order."""
    with arithmetic(deterministic=True):
        plain = train(make_trainer(method, "cuda:0", deterministic=True))
        replayed = make_trainer(method, "cuda:0", deterministic=True, cuda_graphs=True)
        assert torch.equal(train(replayed), plain)
    assert int(replayed.model.get_buffer("bn1.num_batches_tracked")) == STEPS


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_cuda_sees_no_step_wait(method: str, cuda_graphs: bool, make_trainer: Make) -> None:
    trainer = make_trainer(method, "cuda:0", fused=True, channels_last=True, cuda_graphs=cuda_graphs)

    def watch(step: int) -> None:
        if step in (QUIET.start, QUIET.stop):
            torch.cuda.set_sync_debug_mode("error" if step == QUIET.start else "default")

    try:
        assert len(train(trainer, watch)) == STEPS
    finally:
        torch.cuda.set_sync_debug_mode("default")
