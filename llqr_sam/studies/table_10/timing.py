"""What a step of each method and a refresh of U cost on a device: the measurements behind Table 10.

Inputs are random numbers and the rate is zero: the arithmetic of a step does not depend on either. All methods of a
network take turns, so that a slow spell of the machine reaches all of them, and the first call of each, with what is
loaded, tuned or compiled then, is not timed. A step is the trainer's, with everything that the precision asks for. All
methods evaluate the same gradient, so with CUDA graphs they replay one graph.

A refresh costs a + b T for T inner steps. It is timed with one and with n of them, so that a refresh of any T can be
composed; with n = T it is simply timed.
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
import torch.nn.functional as F
from torch import Tensor, nn

from llqr_sam.data.streams import DatasetInfo
from llqr_sam.engine.devices.compilation import compiled
from llqr_sam.engine.devices.cuda_graphs import CudaGraph
from llqr_sam.engine.devices.device import arithmetic, device_name, device_slug
from llqr_sam.engine.loop.gradient_evaluation import GradientEvaluation
from llqr_sam.engine.measurements.rounds import Row, time_rows
from llqr_sam.engine.measurements.stopwatch import Stopwatch
from llqr_sam.engine.records import provenance
from llqr_sam.engine.records.atomic import replacing
from llqr_sam.engine.records.typed_json import read_all, to_json
from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.methods import factory
from llqr_sam.models.registry import build

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Effort:
    """How a network is measured.

    Args:
        batch: Samples B in a minibatch.
        rounds: Times that every method is timed.
        steps: Steps timed together, of which one is a share.
        inner_steps: n of the longer refresh; at most its method's T.
    """

    batch: int
    rounds: int
    steps: int
    inner_steps: int


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step, a figure a round."""

    method: str  # optim=
    seconds: list[float]
    peak_mib: float | None  # above what was held before, in the first call; a replayed graph holds its own all along


@dataclass(frozen=True)
class RefreshTime:
    """Seconds of one refresh of U, a figure a round."""

    divergence: str
    structure: str
    inner_steps: int  # T of the method
    timed: int  # n
    first: list[float]  # with one inner step
    longer: list[float]  # with n
    peak_mib: float | None

    @property
    def seconds(self) -> list[float] | None:
        """With all T inner steps: the longer refresh and T - n further steps; ``None`` if T cannot be composed.

        A disturbance only ever adds time, so a step costs what it does between the quickest refreshes of each length.
        On a busy machine the longer ones may all be the quicker ones. Then nothing is known of a step.
        """
        if self.timed == self.inner_steps:
            return self.longer
        step = (min(self.longer) - min(self.first)) / max(1, self.timed - 1)
        if step <= 0:
            return None
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

    @property
    def measurable(self) -> bool:
        """Whether the refresh, if the methods have one, can be composed."""
        return self.refresh is None or self.refresh.seconds is not None

    def of(self, method: str) -> StepTime | None:
        """The step of a method, if it was measured."""
        return next((step for step in self.steps if step.method == method), None)


def timing_name(runs: Sequence[RunSettings], effort: Effort, device: torch.device) -> str:
    """Name of the record: what is measured, how, and where.

    ``<arch>-<device>-b<batch>[-<divergence>-<structure>]-<8 hex digits of the hash of all of it>``
    """
    spec = _metric_spec(runs)
    what = [spec.divergence, spec.structure] if spec else []
    content = [[run.as_dict() for run in runs], asdict(effort), device_name(device), torch.get_num_threads()]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    place = device_slug(device_name(device))
    return "-".join(str(part) for part in [runs[0].arch.name, place, f"b{effort.batch}", *what, digest])


def measure(runs: Sequence[RunSettings], info: DatasetInfo, effort: Effort, device: torch.device) -> Timing:
    """Time the methods of ``runs``, which share all but the method, on random images of a data set's size.

    Raises:
        ValueError: the precision asks for CUDA graphs, and the device is none of CUDA's.
        torch.OutOfMemoryError: the device's memory does not hold them.
    """
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    commit, dirty = provenance.git_state()
    precision = runs[0].precision
    with arithmetic(deterministic=precision.deterministic):
        torch.manual_seed(0)
        model = _network(runs[0], info).to(device)
        side = info.image_size
        inputs = torch.randn(effort.batch, info.channels, side, side, device=device)
        if precision.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stub
            inputs = inputs.to(memory_format=torch.channels_last)
        targets = torch.randint(0, info.classes, (effort.batch,), device=device)
        forward = compiled(model, deterministic=precision.deterministic) if precision.compile else model
        graph = CudaGraph(model, device) if precision.cuda_graphs else None
        methods = {run.optim.name: _Timed(run, model, forward, graph, (inputs, targets), device) for run in runs}
        steps = {name: Row(name, _times(method.step, effort.steps), effort.steps) for name, method in methods.items()}
        spec = _metric_spec(runs)
        counts = (1, effort.inner_steps) if spec else ()
        refreshes = [Row("refresh", partial(methods[spec.name].refresh, count)) for count in counts if spec]
        time_rows([*steps.values(), *refreshes], effort.rounds, device)
    return Timing(
        schema=SCHEMA_VERSION,
        arch=runs[0].arch.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
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
        steps=[
            StepTime(name, row.seconds, None if precision.cuda_graphs else row.peak_mib) for name, row in steps.items()
        ],
        refresh=_refresh_time(spec, refreshes, effort.inner_steps) if spec else None,
    )


def read_timings(folder: Path) -> tuple[list[Timing], list[str]]:
    """Every measurement in ``folder``, by number of parameters; and a line for each file that cannot be read."""
    timings, damaged = read_all(Timing, sorted(folder.glob("*.json")), SCHEMA_VERSION)
    return sorted(timings, key=lambda timing: timing.parameters), damaged


class _Timed:
    """A method on the shared network and minibatch, as the trainer runs it."""

    def __init__(
        self,
        run: RunSettings,
        model: nn.Module,
        forward: Callable[[Tensor], Tensor],
        graph: CudaGraph | None,
        batch: tuple[Tensor, Tensor],
        device: torch.device,
    ) -> None:
        self._batch = batch
        self._smoothing = run.protocol.label_smoothing
        precision = run.precision
        self._method = factory.build(run.optim, model, fused=precision.fused, curvature_dtype=precision.curvature_dtype)
        for group in self._method.optimizer.param_groups:
            group["lr"] = 0.0
        self._minibatch = GradientEvaluation(
            forward,
            self._loss,
            self._method.optimizer.zero_grad,
            Stopwatch(device),
            device,
            bfloat16=precision.autocast == "bfloat16",
            accumulate=precision.accumulate,
            graph=graph,
        )

    def step(self) -> None:
        self._minibatch.take(*self._batch)
        self._method.optimizer.step(self._minibatch)  # type: ignore[arg-type]  # torch's stub wants a float

    def refresh(self, inner_steps: int) -> None:
        assert self._method.metric is not None
        self._method.metric.inner_steps = inner_steps
        self._method.metric.refresh(*self._batch, self._loss)

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=self._smoothing)


def _network(run: RunSettings, info: DatasetInfo) -> nn.Module:
    arch = run.arch
    return build(arch.name, classes=info.classes, image_size=info.image_size, channels=info.channels, width=arch.width)


def _refresh_time(spec: factory.MethodSpec, rows: Sequence[Row], timed: int) -> RefreshTime:
    assert spec.divergence is not None
    assert spec.structure is not None
    assert spec.inner_steps is not None
    first, longer = rows
    return RefreshTime(
        divergence=spec.divergence,
        structure=spec.structure,
        inner_steps=spec.inner_steps,
        timed=timed,
        first=first.seconds,
        longer=longer.seconds,
        peak_mib=longer.peak_mib,
    )


def _metric_spec(runs: Sequence[RunSettings]) -> factory.MethodSpec | None:
    """The first method with a metric: all refresh alike."""
    return next((run.optim for run in runs if run.optim.uses_llqr), None)


def _times(work: Callable[[], None], count: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(count):
            work()

    return repeated
