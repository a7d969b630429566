"""The list of conf/reproduction.yaml: what is missing of it, in its order, for as long as there is time."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llqr_sam.engine import devices
from llqr_sam.engine.atomic import replacing
from llqr_sam.engine.interruption import Interrupted
from llqr_sam.engine.observer import Observer, RunInfo
from llqr_sam.engine.record import CurvePoint
from llqr_sam.suite.attempt import attempt
from llqr_sam.suite.compose import compose_config
from llqr_sam.suite.errors import UsageError
from llqr_sam.suite.faults import WRONG_DATA, DeviceLost
from llqr_sam.suite.grid import Planned, plan
from llqr_sam.suite.launch import check_choices, check_device, check_places, make_job, retried_kinds
from llqr_sam.suite.lock import LeftAlone
from llqr_sam.suite.overview import Overview
from llqr_sam.suite.same_data import Comparison, check_paths
from llqr_sam.suite.status import Status
from llqr_sam.suite.timings import Measurements, measurements
from llqr_sam.suite.traces import reason_of
from llqr_sam.suite.words import CONF

LIST = CONF / "reproduction.yaml"
BENCH = CONF.parent / "scripts" / "bench.py"
TRAIN = CONF.parent / "train.py"
FOLDER = "reproduction"  # of the records under results/runs
MORE = 1.1  # times what a study was cut off after: less is not worth another try in its turn


class Deadline(Observer):
    """Stops a run, with a checkpoint, after the step in which the time is up.

    Args:
        minutes: From now on; ``None``: no limit.
    """

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    @property
    def seconds_left(self) -> float | None:
        """Until the time is up, 0 afterwards; ``None`` without a limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def on_start(self, run: RunInfo) -> None:
        self._request_stop = run.request_stop

    def on_step(self, step: int, loss: float) -> None:
        if self.seconds_left == 0:
            self._request_stop()

    def on_epoch(self, point: CurvePoint) -> None:
        self.on_step(point.step, 0.0)


@dataclass(frozen=True)
class Bench:
    """A benchmark: options of scripts/bench.py, and where its figures go."""

    name: str
    options: tuple[str, ...]
    path: Path

    @property
    def next_file(self) -> Path | None:
        """What it writes next; ``None`` when it is done."""
        return None if self.path.exists() else self.path

    def lines(self) -> Iterator[str]:
        """What is known of it, in a few words."""
        yield f"bench {self.name}  {'waiting' if self.next_file else 'done: ' + str(self.path)}"

    def measure(self, seconds: float | None) -> None:
        """Run it and keep its JSON.

        Raises:
            TimeoutExpired: it takes longer.
            CalledProcessError: it failed.
        """
        command = [sys.executable, str(BENCH), *self.options]
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=seconds, check=True)
        with replacing(self.path) as file:
            file.write(done.stdout)


@dataclass(frozen=True)
class Timings:
    """A table of times, whose networks train.py measures and keeps one by one."""

    name: str
    words: tuple[str, ...]  # of train.py, the table among them

    @property
    def next_file(self) -> Path | None:
        """What it writes next; ``None`` when each network is measured, or left out on this device."""
        waiting = (network for network in self._found().networks if not network.reason)
        return next((network.path for network in waiting if not network.measured), None)

    def lines(self) -> Iterator[str]:
        """What is known of it: a line a network."""
        try:
            found = self._found()
        except UsageError as error:  # the device is elsewhere
            yield f"timing {self.name}  {error}"
            return
        yield from (f"timing {self.name}, {network.arch}  {network.state}" for network in found.networks)

    def measure(self, seconds: float | None) -> None:
        """Measure what is missing, in a process that can be stopped.

        Raises:
            TimeoutExpired: it takes longer.
            CalledProcessError: it failed.
        """
        command = [sys.executable, str(TRAIN), *self.words]
        subprocess.run(command, stdout=subprocess.DEVNULL, timeout=seconds, check=True)

    def _found(self) -> Measurements:
        return measurements(compose_config(self.words), self.words)


@dataclass(frozen=True)
class Part:
    """A heading of the list and what stands under it."""

    title: str
    runs: list[Planned] = field(default_factory=list)
    words: list[str] = field(default_factory=list)  # what the list says of each run
    studies: list[Bench | Timings] = field(default_factory=list)


class Reproduction:
    """The list under some words.

    Args:
        words: ``key=value`` words of train.py; they replace the list's own words of the same key.
        parts: Numbers of the parts to take, from 1; empty: all.

    Raises:
        UsageError: an impossible word or part.
    """

    def __init__(self, words: Sequence[str] = (), parts: Sequence[int] = ()) -> None:
        tree: Any = OmegaConf.to_container(OmegaConf.load(LIST))
        count = len(tree["parts"])
        if not set(parts) <= set(range(1, count + 1)):
            raise UsageError(f"parts={','.join(map(str, parts))} is not possible: the list has parts 1 to {count}.")
        self.config = compose_config(_merged(tree["words"], words))
        if self.config.table is not None:
            raise UsageError(f"table={self.config.table.number} has no use here: the list names its runs.")
        if self.config.launch.name != "inline":
            raise UsageError(f"launch={self.config.launch.name} has no use here: runs take turns. Use launch=inline.")
        check_choices(self.config)
        if self.config.devices != 1:
            raise UsageError(f"devices={self.config.devices} has no use here: a run has one. Use devices=1.")
        self._device_name = _slug(self.config.device)
        chosen = [part for number, part in enumerate(tree["parts"], 1) if not parts or number in parts]
        self.parts = [self._part(part, tree["words"], words) for part in chosen]

    def run(self, minutes: float | None = None) -> int:
        """Do what is missing until it is done or the time is up; a step at least, however short the time.

        With ``retry=failed`` runs that failed or diverged are tried too, each once.

        Returns:
            Exit status: 0; 1 if a run or benchmark failed; 130 after Ctrl-C or a scheduler's signal.
        """
        check_device(self.config)
        check_places(self.config)
        self._check_data()
        deadline = Deadline(minutes)
        failed = 0
        for begun, (part, work) in enumerate(self._missing(deadline)):
            if begun and deadline.seconds_left == 0:
                break
            if not isinstance(work, Planned):
                _say(f"{part.title}: {work.name}")
                failed |= _measure(work, deadline.seconds_left)
                continue
            _say(f"{part.title}: {work.run_id}")
            try:
                failed |= _train(work, self._status(part), self.config, deadline)
            except Interrupted as interruption:
                _say(f"interrupted: {interruption}" if interruption.signum else "the time is up")
                return 130 if interruption.signum else failed
            except DeviceLost:
                return 1
        return failed

    def lines(self) -> Iterator[str]:
        """What is done and what is left, part by part."""
        for number, part in enumerate(self.parts, 1):
            yield from [""] * (number > 1)
            yield part.title
            overview = Overview(self._status(part), Path(self.config.paths.workspace))
            width = max(map(len, part.words), default=0)
            for words, run in zip(part.words, part.runs, strict=True):
                yield f"{words:{width}}  {run.run_id}  {overview.line(run)}"
            for study in part.studies:
                yield from study.lines()
        if not self.config.retry and any(self._status(part).select("failed") for part in self.parts):
            yield from ["", "runs that failed are left alone; retry=failed tries them again"]

    def _check_data(self) -> None:
        """Refuse a data set that is not there, or not the one of the records."""
        runs = [run for part in self.parts for run in part.runs]
        check_paths([run.data_path for run in runs], self.config)
        paths = self.config.paths
        Comparison.of(Status.of(runs, Path(paths.results), Path(paths.workspace)), self.config).check()

    def _missing(self, deadline: Deadline) -> Iterator[tuple[Part, Planned | Bench | Timings]]:
        """What is not done when its turn comes, each run once: one that fails now has had its turn.

        What an earlier call has cut off, and there is no more time for now, comes last: it would be cut off each time.
        """
        kinds, begun = {"missing", *retried_kinds(self.config)}, set[str]()
        last: list[tuple[Part, Bench | Timings]] = []
        for part in self.parts:
            for run in part.runs:
                if run.run_id not in begun and self._status(part).of_run(run) in kinds:
                    begun.add(run.run_id)
                    yield part, run
            for study in part.studies:
                if (file := study.next_file) is None:
                    continue
                left = deadline.seconds_left
                if left is not None and left < MORE * _tried(file):
                    last.append((part, study))
                else:
                    yield part, study
        yield from last

    def _part(self, part: dict[str, Any], common: Sequence[str], words: Sequence[str]) -> Part:
        runs, names = [], []
        for seed in part.get("seeds", [0]):
            for text in part.get("runs", []):
                names.append(f"{text} seed={seed}")
                merged = _merged([*common, *names[-1].split()], words)
                (run,) = plan(compose_config(merged), merged)
                runs.append(replace(run, folder=FOLDER))
        results = Path(self.config.paths.results) / "bench"
        studies: list[Bench | Timings] = []
        for name, options in part.get("benches", {}).items():
            command = (*options.split(), "--device", self.config.device, "--json")
            studies.append(Bench(name, command, results / f"{name}-{self._device_name}.json"))
        where = [word for word in words if word.partition("=")[0] in ("device", "paths.results")]
        for name, own in part.get("timings", {}).items():
            studies.append(Timings(name, tuple(_merged(own.split(), where))))
        return Part(part["title"], runs, names, studies)

    def _status(self, part: Part) -> Status:
        paths = self.config.paths
        return Status.of(part.runs, Path(paths.results), Path(paths.workspace), self.config.stale_minutes)


def _train(run: Planned, status: Status, config: DictConfig, deadline: Deadline) -> int:
    """Train one run; 1 if it failed, which is noted in its folder.

    Raises:
        Interrupted: a signal came or the time is up; a checkpoint is written.
        DeviceLost: it failed, and the next one would.
        UsageError: the data set is not there, or not the one that the run was begun on.
    """
    try:
        attempt(make_job(run, status, config, Path()), mistakes=WRONG_DATA, observers=[deadline])
    except LeftAlone as reason:
        _say(f"{run.run_id}: {reason}")
    except Interrupted:
        raise
    except WRONG_DATA as error:
        raise UsageError(str(error)) from error
    except Exception as error:
        _say(f"failed: {run.run_id}: {reason_of(error)}")
        if isinstance(error, DeviceLost):
            raise
        return 1
    return 0


def _measure(study: Bench | Timings, seconds: float | None) -> int:
    """Measure; 1 if it failed, 0 also if the time did not suffice, which is noted beside its file."""
    file = study.next_file
    assert file is not None
    try:
        study.measure(seconds)
    except subprocess.TimeoutExpired as cut:
        if not file.exists():
            with replacing(_mark(file)) as mark:
                mark.write(f"{max(cut.timeout, _tried(file))}\n".encode())
        _say(f"{study.name} was cut off and begins anew with more minutes=, or when all else is done")
    except subprocess.CalledProcessError as error:
        _say(f"failed: {study.name}, exit status {error.returncode}")
        return 1
    finally:
        if file.exists():
            _mark(file).unlink(missing_ok=True)
    return 0


def _mark(file: Path) -> Path:
    """Where it is noted that a study was cut off before it wrote a file."""
    return file.with_suffix(".cut")


def _tried(file: Path) -> float:
    """Seconds that did not suffice for a file; 0 if it has not been tried."""
    try:
        return float(_mark(file).read_text())
    except (OSError, ValueError):
        return 0.0


def _merged(own: Sequence[str], given: Sequence[str]) -> list[str]:
    """Words by key, the last of each key."""
    return list({word.partition("=")[0]: word for word in (*own, *given)}.values())


def _slug(device: str) -> str:
    """The device's name as part of a file name; what is asked for, where it is not here."""
    try:
        name = devices.describe(devices.resolve(device))
    except devices.DeviceError:
        name = device
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
