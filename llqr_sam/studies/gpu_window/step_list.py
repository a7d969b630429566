"""A list of steps in YAML: what is missing of it, in its order, for as long as there is time.

    words: [dataset=cifar100, ...]        of train.py; of every run and output, given ones replace them
    parts:
      - title: Cost of a step             what stands in messages
        seconds: 60                       limit of each step of the part; absent: none
        outputs: {name: command}          scripts; {words} and {device} are filled in
        timings: {name: words}            tables of times
        table: epochs_15                  the runs of a table
        runs: [optim=sgdm, optim=sam]     runs, by what they have beside the words above
        seeds: [1, 2]                     of those runs; absent: 0

Within a part the order is outputs, timings, the table's runs, runs.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from llqr_sam.engine.devices.device import DeviceError, device_name, device_slug, find_device
from llqr_sam.studies.gpu_window.guard import Guard
from llqr_sam.studies.gpu_window.steps import Ended, OneWorker, Output, Step, Timings, Training
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.command_line import merged
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.launch.launch import check_choices, check_code, check_device, check_places
from llqr_sam.suite.plan.plan import Planned, plan
from llqr_sam.suite.status.same_data import Comparison, check_paths
from llqr_sam.suite.status.status import Status

MORE = 1.1  # times what a step was cut off after: less is not worth another try in its turn


class Deadline:
    """The end of a call.

    Args:
        minutes: From now on; ``None``: no limit.
    """

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    def least(self, seconds: float | None) -> float | None:
        """The smaller of a step's limit and of what is left; ``None`` without either."""
        left = None if self._end is None else max(0.0, self._end - time.monotonic())
        return min((limit for limit in (seconds, left) if limit is not None), default=None)

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self._end is not None and time.monotonic() >= self._end


@dataclass(frozen=True)
class Part:
    """A heading of the list and what stands under it."""

    title: str
    steps: tuple[Step, ...]
    seconds: float | None = None  # limit of each step

    @property
    def trainings(self) -> list[Training]:
        """Its runs."""
        return [step for step in self.steps if isinstance(step, Training)]


class StepList:
    """A list under some words.

    Args:
        path: The YAML file.
        words: ``key=value`` words of train.py; they replace the list's own of the same key. Those of ``table.`` are for
            the runs of tables alone, ``table.timing.`` for tables of times.
        parts: Numbers of the parts to take, from 1; empty: all.
        trainer: Trains the runs.

    Raises:
        UsageError: an impossible word or part.
    """

    def __init__(
        self, path: Path, words: Sequence[str] = (), parts: Sequence[int] = (), trainer: OneWorker | None = None
    ) -> None:
        tree: Any = OmegaConf.to_container(OmegaConf.load(path))
        count = len(tree["parts"])
        if not set(parts) <= set(range(1, count + 1)):
            raise UsageError(f"parts={','.join(map(str, parts))} is not possible: the list has parts 1 to {count}.")
        self.trainer = trainer or OneWorker()
        self._name, self._given = path.stem, list(words)
        self._plain = [word for word in words if not word.startswith("table.")]
        self._own: list[str] = tree["words"]
        self.config = Command.of(*merged(self._own, self._plain)).config
        if self.config.table is not None:
            raise UsageError(f"table={self.config.table.number} has no use here: the list names its runs.")
        if self.config.launch.name != "inline":
            raise UsageError(f"launch={self.config.launch.name} has no use here: runs take turns. Use launch=inline.")
        check_choices(self.config)
        if self.config.devices != 1:
            raise UsageError(f"devices={self.config.devices} has no use here: a run has one. Use devices=1.")
        self.parts = [self._part(part) for number, part in enumerate(tree["parts"], 1) if not parts or number in parts]

    def run(self, minutes: float | None = None) -> int:
        """Do what is missing until it is done or the time is up; a step at least, however short the time.

        With ``retry=failed`` runs that failed or diverged are tried too, each once.

        Returns:
            Exit status: 0; 1 if a step failed; 130 after Ctrl-C or a scheduler's signal.

        Raises:
            UsageError: the device cannot do what the precision asks for, a place cannot be written, a data set is not
                there or not the one of the records.
        """
        check_code()
        check_device(self.config, [step.run.settings for part in self.parts for step in part.trainings])
        check_places(self.config)
        deadline, guard, failed = Deadline(minutes), Guard(), 0
        with guard.on_signals():
            try:
                for begun, (part, step) in enumerate(self._missing(deadline)):
                    if begun and deadline.is_over:
                        break
                    if isinstance(step, Training):
                        self._check_data(step.run)
                    _say(f"{part.title}: {step.name}")
                    ended = step.carry_out(guard, deadline.least(part.seconds))
                    if guard.signum is not None:
                        _say("interrupted: the same command goes on")
                        return 130
                    failed |= ended.outcome == "failed"
                    _say(*_told(step, ended))
            finally:
                self.trainer.close()
        if deadline.is_over:
            _say("the time is up")
        return int(failed)

    def lines(self) -> Iterator[str]:
        """What is done and what is left, part by part."""
        for number, part in enumerate(self.parts, 1):
            yield from [""] * (number > 1)
            yield part.title
            for step in part.steps:
                yield from step.lines()
        failed = any(training.kind == "failed" for part in self.parts for training in part.trainings)
        if failed and not self.config.retry:
            yield from ["", "runs that failed are left alone; retry=failed tries them again"]

    def files(self) -> Iterator[Path]:
        """What the steps have left so far."""
        for part in self.parts:
            for step in part.steps:
                yield from step.files()

    def _check_data(self, run: Planned) -> None:
        """Refuse a data set that is not there, or not the one of the records."""
        runs = [training.run for part in self.parts for training in part.trainings]
        check_paths([run.data_path], self.config)
        same = [other for other in runs if (other.cell.dataset, other.data_path) == (run.cell.dataset, run.data_path)]
        Comparison.of(Status.under(same, self.config), self.config).check()

    def _missing(self, deadline: Deadline) -> Iterator[tuple[Part, Step]]:
        """What is not done when its turn comes, each once: one that fails now has had its turn.

        What an earlier call has cut off, and there is no more time for now, comes last: it would be cut off each time.
        """
        begun: set[str] = set()
        last: list[tuple[Part, Step]] = []
        for part in self.parts:
            for step in part.steps:
                if step.name in begun or not step.waits:
                    continue
                limit = deadline.least(part.seconds)
                if limit is not None and limit < MORE * step.tried:
                    last.append((part, step))
                    continue
                begun.add(step.name)
                yield part, step
        yield from last

    def _part(self, part: dict[str, Any]) -> Part:
        steps: list[Step] = [self._output(name, command) for name, command in part.get("outputs", {}).items()]
        where = [word for word in self._given if word.startswith(("device=", "paths.results=", "table.timing."))]
        steps += [Timings(name, tuple(merged(own.split(), where))) for name, own in part.get("timings", {}).items()]
        trainings = list(self._of_table(part["table"])) if "table" in part else []
        trainings += [
            self._training(f"{text} seed={seed}") for seed in part.get("seeds", [0]) for text in part.get("runs", [])
        ]
        width = max((len(training.words) for training in trainings), default=0)
        steps += [replace(training, words=f"{training.words:{width}}") for training in trainings]
        return Part(part["title"], tuple(steps), part.get("seconds"))

    def _output(self, name: str, command: str) -> Output:
        words = merged(self._own, self._plain)
        words = [word for word in words if word.partition("=")[0] not in ("retry", "dry_run", "status")]
        filled: list[str] = []
        for word in shlex.split(command):
            filled += words if word == "{words}" else [word.replace("{device}", self.config.device)]
        suffix = "json" if "--json" in filled else "txt"
        place = device_slug(_device_name(self.config.device))
        return Output(name, tuple(filled), Path(self.config.paths.results) / "bench" / f"{name}-{place}.{suffix}")

    def _of_table(self, number: str) -> Iterator[Training]:
        given = [word for word in self._given if not word.startswith("table.timing.")]
        words = merged([f"table={number}"], given)
        for run in plan(Command.of(*words)):
            cell = f"optim={run.cell.method}" + (f" geometry={run.cell.geometry}" if run.cell.geometry else "")
            yield Training(f"table={number} {cell} seed={run.settings.seed}", run, self.config, self.trainer)

    def _training(self, text: str) -> Training:
        words = merged([*self._own, *text.split()], self._plain)
        (run,) = plan(Command.of(*words))
        return Training(text, replace(run, folder=self._name), self.config, self.trainer)


def _device_name(device: str) -> str:
    """What its maker calls it; what is asked for, where it is not here."""
    try:
        return device_name(find_device(device))
    except DeviceError:
        return device


def _told(step: Step, ended: Ended) -> Iterator[str]:
    """What to say of a step that has ended; nothing of an output that is there."""
    if ended.outcome == "failed":
        yield f"failed: {step.name}: {ended.reason}"
    elif ended.outcome == "cut":
        yield f"{step.name} was cut off: {ended.reason}"
    elif ended.reason:
        yield f"{step.name}: {ended.reason}"


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)
