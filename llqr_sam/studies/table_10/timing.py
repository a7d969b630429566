"""What a step of each method and a refresh of U cost on a device: the measurements behind Table 10.

All methods of a network take turns, so that a slow spell of the machine reaches all of them, and share one CUDA graph,
for all evaluate the same gradient. The first call of each is not timed: it loads, tunes or compiles. A refresh with T
inner steps costs a + b T: it is timed with 1 and with n of them, and the time for any T is composed from the two.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llqr_sam.data.streams import DatasetInfo
from llqr_sam.engine.devices.acceleration import CudaGraph, compiled
from llqr_sam.engine.devices.device import arithmetic, device_name, device_slug
from llqr_sam.engine.loop.gradient_evaluation import GradientEvaluation
from llqr_sam.engine.measurements.rounds import Workload, time_in_rounds
from llqr_sam.engine.measurements.stopwatch import Stopwatch
from llqr_sam.engine.records import provenance
from llqr_sam.engine.records.atomic import replacing
from llqr_sam.engine.records.typed_json import read_all, to_json
from llqr_sam.engine.settings.run_settings import PrecisionSettings, RunSettings
from llqr_sam.methods import factory
from llqr_sam.methods.settings import LLQRSettings, MethodSettings
from llqr_sam.models.registry import build


class Problem:
    """A network, which is moved to ``device``, a minibatch of random numbers and the loss.

    ``shape`` is (batch, channels, side, side), ``precision`` None is float32; CUDA graphs raise a ValueError on a CPU.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, int, int, int],
        classes: int,
        device: torch.device,
        precision: PrecisionSettings | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        torch.manual_seed(0)
        self.precision = how = precision or PrecisionSettings()
        self.model, self.device = model.to(device), device
        self.inputs = torch.randn(shape, device=device)
        if how.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in stubs
            self.inputs = self.inputs.to(memory_format=torch.channels_last)
        self.targets = torch.randint(0, classes, shape[:1], device=device)
        self.loss_fn = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.forward: Callable[[Tensor], Tensor] = self.model
        if how.compile:
            self.forward = compiled(self.model, deterministic=how.deterministic)
        self.graph = CudaGraph(self.model, device) if how.cuda_graphs else None

    @property
    def parameters(self) -> int:
        """Number of scalars in the network's parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def evaluate(self) -> Tensor:
        """One gradient evaluation, forward and backward, in float32: the unit of every ratio."""
        self.model.zero_grad()
        loss: Tensor = self.loss_fn(self.model(self.inputs), self.targets)
        torch.autograd.backward(loss)
        return loss


class TimedMethod:
    """A method on a problem; several can share one. ``metric`` is U, if the method learns one."""

    def __init__(self, settings: MethodSettings, problem: Problem) -> None:
        self._problem, how = problem, problem.precision
        method = factory.build(settings, problem.model, fused=how.fused, curvature_dtype=how.curvature_dtype)
        self.metric, self._optimizer = method.metric, method.optimizer
        for group in self._optimizer.param_groups:
            group["lr"] = 0.0
        self._evaluation = GradientEvaluation(
            problem.forward,
            problem.loss_fn,
            self._optimizer.zero_grad,
            Stopwatch(problem.device),
            problem.device,
            bfloat16=how.autocast == "bfloat16",
            accumulate=how.accumulate,
            graph=problem.graph,
        )

    def step(self) -> None:
        """One step of the optimizer."""
        self._evaluation.take(self._problem.inputs, self._problem.targets)
        self._optimizer.step(self._evaluation)  # type: ignore[arg-type]  # torch's stub wants a float

    def refresh(self, inner_steps: int) -> None:
        """One refresh of U with ``inner_steps`` inner steps."""
        assert self.metric is not None
        self.metric.inner_steps = inner_steps
        self.metric.refresh(self._problem.inputs, self._problem.targets, self._problem.loss_fn)


SCHEMA_VERSION = 1
FOLDER = "timings"  # of the records, below the results


class Busy(ValueError):
    """A longer refresh took no more time than a shorter one, so nothing can be composed from them."""


@dataclass(frozen=True)
class Effort:
    """How a network is measured."""

    batch: int  # samples in a minibatch
    rounds: int  # how often every method is timed
    steps: int  # timed together in a round
    inner_steps: int  # n of the longer refresh; at most its method's T


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step, one value a round."""

    method: str  # optim=
    seconds: list[float]
    peak_mib: float | None  # above what was in use before, in the first call; None with CUDA graphs, which keep theirs


@dataclass(frozen=True)
class RefreshTime:
    """Seconds of one refresh of U, one value a round."""

    divergence: str
    structure: str
    inner_steps: int  # T of the method
    timed: int  # n
    first: list[float]  # with one inner step
    longer: list[float]  # with n
    peak_mib: float | None

    def __post_init__(self) -> None:
        if self.timed != self.inner_steps and min(self.longer) <= min(self.first):
            raise Busy(f"a refresh of {self.timed} inner steps took no longer than one of 1")

    @property
    def seconds(self) -> list[float]:
        """With all T inner steps: the longer refresh and T - n further steps.

        A disturbance only adds time, so the cost of an inner step is taken from the quickest refresh of each length.
        """
        step = (min(self.longer) - min(self.first)) / max(1, self.timed - 1)
        return [longer + (self.inner_steps - self.timed) * step for longer in self.longer]


@dataclass(frozen=True)
class Timing:
    """One network on one device, measured."""

    schema: int
    arch: str
    parameters: int
    image_size: int
    classes: int
    batch: int
    precision: dict[str, Any]  # PrecisionSettings
    device: str
    threads: int  # of the CPU
    git_commit: str | None
    git_dirty: bool
    packages: dict[str, str]
    started: str  # ISO 8601, UTC
    steps: list[StepTime]
    refresh: RefreshTime | None  # of the methods that have a metric

    def write(self, path: Path) -> None:
        """Create or replace the file ``path``, atomically."""
        with replacing(path) as file:
            file.write(to_json(self).encode())

    def seconds_of(self, method: str) -> list[float]:
        """Of a step of the method; empty if it was not measured."""
        return next((step.seconds for step in self.steps if step.method == method), [])


def timing_name(runs: Sequence[RunSettings], effort: Effort, device: torch.device) -> str:
    """Name of the record: ``<arch>-<device>-b<batch>[-<divergence>-<structure>]-<hash of all that is measured>``."""
    learned = _learned(runs)
    what = [learned[1].divergence, learned[1].structure] if learned else []
    content = [[run.as_dict() for run in runs], asdict(effort), device_name(device), torch.get_num_threads()]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    return "-".join([runs[0].arch.name, device_slug(device_name(device)), f"b{effort.batch}", *what, digest])


def time_network(runs: Sequence[RunSettings], info: DatasetInfo, effort: Effort, device: torch.device) -> Timing:
    """Time the methods of ``runs``, which differ in nothing else, on random images of a data set's size.

    Raises:
        Busy, torch.OutOfMemoryError: this device cannot measure the network.
    """
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    commit, dirty = provenance.git_state()
    arch, precision, learned, side = runs[0].arch, runs[0].precision, _learned(runs), info.image_size
    shape, smoothing = (effort.batch, info.channels, side, side), runs[0].protocol.label_smoothing
    with arithmetic(deterministic=precision.deterministic):
        torch.manual_seed(0)
        model = build(arch.builder, classes=info.classes, image_size=side, channels=info.channels, **arch.options)
        problem = Problem(model, shape, info.classes, device, precision, smoothing)
        methods = {run.optim.name: TimedMethod(run.optim, problem) for run in runs}
        steps = [Workload(name, method.step, repeats=effort.steps) for name, method in methods.items()]
        refreshes = []
        if learned:
            refresh = methods[learned[0]].refresh
            refreshes = [Workload("refresh", partial(refresh, count)) for count in (1, effort.inner_steps)]
        time_in_rounds([*steps, *refreshes], effort.rounds, device)
    return Timing(
        schema=SCHEMA_VERSION,
        arch=arch.name,
        parameters=problem.parameters,
        image_size=info.image_size,
        classes=info.classes,
        batch=effort.batch,
        precision=asdict(precision),
        device=device_name(device),
        threads=torch.get_num_threads(),
        git_commit=commit,
        git_dirty=dirty,
        packages=provenance.packages(),
        started=started,
        steps=[StepTime(step.name, step.seconds, None if precision.cuda_graphs else step.peak_mib) for step in steps],
        refresh=_refresh_time(learned[1], effort.inner_steps, *refreshes) if learned else None,
    )


def read_timings(results: Path) -> tuple[list[Timing], list[str]]:
    """Every measurement, by number of parameters; and a line for each file that cannot be read."""
    timings, damaged = read_all(Timing, sorted((results / FOLDER).glob("*.json")), SCHEMA_VERSION)
    return sorted(timings, key=lambda timing: timing.parameters), damaged


def _refresh_time(llqr: LLQRSettings, timed: int, first: Workload, longer: Workload) -> RefreshTime:
    seconds, peak = (first.seconds, longer.seconds), longer.peak_mib
    return RefreshTime(llqr.divergence, llqr.structure, llqr.inner_steps, timed, *seconds, peak)


def _learned(runs: Sequence[RunSettings]) -> tuple[str, LLQRSettings] | None:
    """The first method with a metric, and the metric's settings: a refresh costs the same in all of them."""
    return next(((run.optim.name, run.optim.llqr) for run in runs if run.optim.llqr), None)
