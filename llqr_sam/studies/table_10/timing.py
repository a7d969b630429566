"""What a step of each method and a refresh of U cost on a device: the measurements behind Table 10.

All methods of a network take turns, so that a slow spell of the machine reaches all of them. The first call of each is
not timed: it loads, tunes or compiles. All methods evaluate the same gradient, so with CUDA graphs they share one.

A refresh with T inner steps costs a + b T. It is timed with 1 and with n of them, from which the time for any T is
composed; with n = T it is timed directly. On a busy machine the longer refresh may be no slower: nothing can be
composed, and there is no such ``RefreshTime``.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from llqr_sam.data.streams import DatasetInfo
from llqr_sam.engine.devices.device import arithmetic, device_name, device_slug
from llqr_sam.engine.measurements.rounds import Workload, time_in_rounds
from llqr_sam.engine.records import provenance
from llqr_sam.engine.records.atomic import replacing
from llqr_sam.engine.records.typed_json import read_all, to_json
from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.methods.settings import LLQRSettings
from llqr_sam.models.registry import build
from llqr_sam.studies.table_10.timed_method import Problem, TimedMethod

SCHEMA_VERSION = 1
FOLDER = "timings"  # of the records, below the results


class Busy(ValueError):
    """A longer refresh took no more time than a shorter one."""


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
    """Name of the record: what is measured, how, and where.

    ``<arch>-<device>-b<batch>[-<divergence>-<structure>]-<8 hex digits of the hash of all of it>``
    """
    learned = _learned(runs)
    what = [learned[1].divergence, learned[1].structure] if learned else []
    content = [[run.as_dict() for run in runs], asdict(effort), device_name(device), torch.get_num_threads()]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    place = device_slug(device_name(device))
    return "-".join(str(part) for part in [runs[0].arch.name, place, f"b{effort.batch}", *what, digest])


def time_network(runs: Sequence[RunSettings], info: DatasetInfo, effort: Effort, device: torch.device) -> Timing:
    """Time the methods of ``runs``, which differ in nothing else, on random images of a data set's size.

    Raises:
        Busy: the machine was too busy to measure a refresh.
        ValueError: the precision asks for CUDA graphs, and the device has none.
        torch.OutOfMemoryError: the network does not fit into the device's memory.
    """
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    commit, dirty = provenance.git_state()
    arch, precision, side = runs[0].arch, runs[0].precision, info.image_size
    shape, smoothing = (effort.batch, info.channels, side, side), runs[0].protocol.label_smoothing
    with arithmetic(deterministic=precision.deterministic):
        torch.manual_seed(0)
        model = build(arch.name, classes=info.classes, image_size=side, channels=info.channels, width=arch.width)
        problem = Problem(model, shape, info.classes, device, precision, smoothing)
        methods = {run.optim.name: TimedMethod(run.optim, problem) for run in runs}
        steps = [Workload(name, method.step, repeats=effort.steps) for name, method in methods.items()]
        refreshes = []
        if learned := _learned(runs):
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
