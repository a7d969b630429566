"""What surrounds a captured graph: memory it reads and writes, and traces that its making must not leave.

Without a GPU a stand-in keeps what was evaluated while it was captured and, when it is replayed, evaluates that again
into the same memory. Tests marked ``gpu`` do the real thing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llqr_sam.engine.devices import acceleration
from llqr_sam.engine.devices.acceleration import CudaGraph
from llqr_sam.engine.devices.device import random_state, set_random_state
from llqr_sam.engine.loop.run import execute
from tests.engine.loop.test_trainer import run_in_pieces, timeless

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
PLACES = [CPU, pytest.param(GPU, marks=pytest.mark.gpu)]


class Problem:
    """A network with batch-norm and dropout on a device, and its evaluation, which keeps what it saw last."""

    def __init__(self, device: torch.device = CPU) -> None:
        torch.manual_seed(0)
        layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
        self.model = nn.Sequential(*layers).to(device)
        self.device = device
        self.last: tuple[Tensor, Tensor, Tensor] | None = None

    def evaluate(self, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = F.cross_entropy(self.model(inputs), targets)
        loss.backward()
        self.last = inputs, targets, loss.detach()
        return self.last[2]

    def minibatches(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1)
        for _ in range(5):
            inputs, targets = torch.randn(16, 6, generator=generator), torch.randint(3, (16,), generator=generator)
            yield inputs.to(self.device), targets.to(self.device)

    def gradients(self) -> list[Tensor | None]:
        return [parameter.grad for parameter in self.model.parameters()]

    def run(self, run: Callable[..., Tensor], passes: int = 2) -> list[Tensor]:
        """Losses, then gradients and statistics, of some passes over each minibatch."""
        found = []
        for inputs, targets in self.minibatches():
            for _ in range(passes):
                self.model.zero_grad()
                found.append(run(self.evaluate, inputs, targets))
                found += [gradient.clone() for gradient in self.gradients() if gradient is not None]
        return found + list(self.model.buffers())


@pytest.fixture
def make_replay(monkeypatch: pytest.MonkeyPatch) -> Callable[[Problem], CudaGraph]:
    """A ``CudaGraph``: a real one on a GPU; on the CPU one whose graphs are stand-ins."""

    def make(problem: Problem) -> CudaGraph:
        if problem.device == GPU:
            return CudaGraph(problem.model, GPU)

        class StandIn:
            def __enter__(self) -> None:
                pass

            def __exit__(self, *_: object) -> None:
                assert problem.last is not None
                (self.inputs, self.targets, self.loss), self.gradients = problem.last, problem.gradients()

            def replay(self) -> None:
                problem.model.zero_grad()
                self.loss.copy_(problem.evaluate(self.inputs, self.targets))
                for static, gradient in zip(self.gradients, problem.gradients(), strict=True):
                    assert static is not None
                    assert gradient is not None
                    static.copy_(gradient)

        class Stream:
            def __init__(self, *_: object) -> None:
                pass

            def wait_stream(self, stream: object) -> None:
                pass

        monkeypatch.setattr(acceleration, "random_state", lambda _: random_state(CPU))
        monkeypatch.setattr(acceleration, "set_random_state", lambda state, _: set_random_state(state, CPU))
        for name in ("device", "stream"):
            monkeypatch.setattr(torch.cuda, name, lambda _: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", Stream)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", StandIn)
        monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream, capture_error_mode: graph)
        return CudaGraph(problem.model, GPU)

    return make


@pytest.mark.parametrize("device", PLACES)
def test_replays_are_the_plain_passes(device: torch.device, make_replay: Callable[[Problem], CudaGraph]) -> None:
    """Losses, gradients, batch-norm statistics and dropout: nothing of warm-up and capture is left in them."""
    plain, replayed = Problem(device), Problem(device)
    torch.manual_seed(2)
    expected = plain.run(lambda evaluate, inputs, targets: evaluate(inputs, targets))
    torch.manual_seed(2)
    found = replayed.run(make_replay(replayed))
    assert len(found) == len(expected) > 10
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.gpu
def test_another_thread_may_pin_memory_during_the_capture() -> None:
    """As a DataLoader's does, whenever it likes."""
    problem, pinned = Problem(GPU), list[Tensor]()
    replay = CudaGraph(problem.model, GPU)

    def evaluate(inputs: Tensor, targets: Tensor) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            thread = threading.Thread(target=lambda: pinned.append(torch.empty(2**26, pin_memory=True)))
            thread.start()
            thread.join()
        return problem.evaluate(inputs, targets)

    inputs, targets = next(problem.minibatches())
    assert torch.isfinite(replay(evaluate, inputs, targets))
    assert [tensor.is_pinned() for tensor in pinned] == [True]


@pytest.mark.parametrize("device", PLACES)
def test_a_minibatch_of_another_shape_is_refused(
    device: torch.device, make_replay: Callable[[Problem], CudaGraph]
) -> None:
    """One sample would broadcast over the captured minibatch."""
    problem = Problem(device)
    replay = make_replay(problem)
    inputs, targets = next(problem.minibatches())
    replay(problem.evaluate, inputs, targets)
    with pytest.raises(ValueError, match=r"minibatches \[16, 6\] cannot take one of \[1, 6\]"):
        replay(problem.evaluate, inputs[:1], targets[:1])


def test_it_needs_a_gpu(make_settings: Any, make_options: Any) -> None:
    with pytest.raises(ValueError, match="cuda_graphs=true needs a CUDA device, not device=cpu"):
        execute(make_settings(cuda_graphs=True), make_options())


def test_it_takes_whole_minibatches(make_settings: Any) -> None:
    with pytest.raises(ValueError, match="precision.accumulate=2 must be 1 beside precision.cuda_graphs=true"):
        make_settings(cuda_graphs=True, accumulate=2)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["sgdm", "llqr_f_sam"])
def test_a_captured_run_resumes_bit_for_bit(method: str, make_settings: Any, make_options: Any, stop_at: Any) -> None:
    """A resumed run warms up and captures anew."""
    settings = make_settings(method, deterministic=True, cuda_graphs=True, fused=True)
    whole = execute(settings, make_options("whole", device="cuda:0"))
    pieces = run_in_pieces(settings, make_options("pieces", device="cuda:0"), [stop_at(8), stop_at(9), stop_at(20)])
    assert timeless(pieces) == timeless(whole)
