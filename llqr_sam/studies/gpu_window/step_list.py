"""A list of steps in YAML: does what is missing of it, in order, for as long as there is time.

    words: [dataset=cifar100, ...]        train.py's, for every run and {words}; given words replace them
    parts:
      - title: Cost of a step             heading in messages
        seconds: 60                       time limit of each step; absent: none
        outputs: {name: command}          scripts; {words}, {device} and {where} are filled in
        table: epochs_15                  the runs of a table
        runs: [optim=sgdm, optim=sam]     runs, by their words beside those above
        seeds: [1, 2]                     of those runs; absent: 0

{where} is for tables of times: the given words that begin with device=, paths.results= or table.timing. Within a part
the order is outputs, the table's runs, runs.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from llqr_sam.engine.devices.device import DeviceError, device_name, device_slug, find_device
from llqr_sam.engine.loop.interruption import handled
from llqr_sam.studies.gpu_window.steps import Output, Step, StepFailed, Training
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.command_line import keys, merged, unknown
from llqr_sam.suite.config.errors import UsageError, say
from llqr_sam.suite.launch.checks import check_code, check_device, check_folders
from llqr_sam.suite.plan.plan import plan
from llqr_sam.suite.status.status import Comparison, Status


@dataclass(frozen=True)
class Part:
    """A heading of the list and the steps under it."""

    title: str
    steps: tuple[Step, ...]
    seconds: float  # time limit of each step

    @property
    def trainings(self) -> list[Training]:
        """Its runs."""
        return [step for step in self.steps if isinstance(step, Training)]


class StepList:
    """A list with the words of a command line.

    Args:
        path: The YAML file.
        arguments: Words ``key=value``: ``minutes=``, ``parts=`` (numbers from 1), the script's own (``others``), and
            train.py's, which replace the list's of the same key. Those that begin with ``table.`` are for the runs of
            tables alone, with ``table.timing.`` for tables of times.
        others: Further keys of the script; ``own`` has their values, empty where they were not given.
    """

    def __init__(self, path: Path, arguments: Sequence[str] = (), others: Sequence[str] = ()) -> None:
        self.own, words = dict.fromkeys(("minutes", "parts", *others), ""), []
        for word in arguments:
            key, equals, value = word.partition("=")
            if key in self.own:
                self.own[key] = value
            elif equals and key.isidentifier() and key not in keys():
                raise UsageError(unknown(key, self.own))
            else:
                words.append(word)
        self._minutes = _minutes(self.own["minutes"])
        tree: Any = OmegaConf.to_container(OmegaConf.load(path))
        numbers = _numbers(self.own["parts"], len(tree["parts"]))
        self._folder, self._given, self._own = path.stem, words, tree["words"]
        self._plain = [word for word in words if not word.startswith("table.")]
        self.config = Command.of(*merged(self._own, self._plain)).config
        if self.config.table is not None:
            raise UsageError(f"table={self.config.table.number} has no use here: the list names its runs.")
        if self.config.launch.name != "inline":
            raise UsageError(f"launch={self.config.launch.name} has no use here: runs take turns. Use launch=inline.")
        if self.config.devices != 1:
            raise UsageError(f"devices={self.config.devices} has no use here: a run has one. Use devices=1.")
        self.parts = [self._part(part) for number, part in enumerate(tree["parts"], 1) if number in numbers]

    @property
    def shows(self) -> bool:
        """Whether the list is to be shown and not begun."""
        return self.config.dry_run or self.config.status

    def carry_out(self, after_step: Callable[[], None] = lambda: None) -> int:
        """Do what is missing, unless the list is only to be shown, and print what is left; returns the exit status."""
        status = 0 if self.shows else self.run(self._minutes, after_step)
        print(*self.lines(), sep="\n")
        return status

    def run(self, minutes: float = math.inf, after_step: Callable[[], None] = lambda: None) -> int:
        """Do what is missing until it is done or the time is up; at least one step, however short the time.

        With ``retry=failed`` runs that failed or diverged are tried too, each once.

        Returns:
            Exit status: 0; 1 if a step failed; 130 after Ctrl-C or a scheduler's signal.
        """
        check_code()
        runs = [training.run for part in self.parts for training in part.trainings]
        check_device(self.config, [run.settings for run in runs])
        check_folders(self.config)
        Comparison.of(Status.under(runs, self.config), self.config).check()
        end, status = time.monotonic() + 60 * minutes, 0
        signals: list[int] = []
        with handled(lambda signum, frame: signals.append(signum)):
            for number, (part, step) in enumerate(self._pending()):
                if number and time.monotonic() >= end:
                    break
                say(f"{part.title}: {step.name}")
                try:
                    said = step.carry_out(min(part.seconds, end - time.monotonic()), signals)
                except StepFailed as failure:
                    said, status = f"failed: {step.name}: {failure}", 1
                after_step()
                if signals:
                    say("interrupted: the same command continues")
                    return 130
                say(*filter(None, [said]))
        if time.monotonic() >= end:
            say("the time is up")
        return status

    def lines(self) -> Iterator[str]:
        """What is done and what is left, part by part."""
        for number, part in enumerate(self.parts):
            yield from [""] * (number > 0)
            yield part.title
            width = max((len(step.label) for step in part.steps), default=0)
            yield from (f"{step.label:{width}}  {step.state}" for step in part.steps)
        failed = any(training.kind == "failed" for part in self.parts for training in part.trainings)
        if failed and not self.config.retry:
            yield from ["", "runs that failed are left alone; retry=failed tries them again"]

    def _pending(self) -> Iterator[tuple[Part, Step]]:
        """Steps that are not done when their turn comes, each once.

        What an earlier call began and did not finish comes last, so that it cannot use up the time of every call.
        """
        steps = [(part, step) for part in self.parts for step in part.steps]
        begun: set[str] = set()
        for part, step in sorted(steps, key=lambda pair: pair[1].unfinished):
            if step.name not in begun and step.pending:
                begun.add(step.name)
                yield part, step

    def _part(self, part: dict[str, Any]) -> Part:
        steps: list[Step] = [self._output(name, command) for name, command in part.get("outputs", {}).items()]
        if "table" in part:
            steps += self._of_table(part["table"])
        for seed in part.get("seeds", [0]):
            steps += [self._training(f"{words} seed={seed}") for words in part.get("runs", [])]
        return Part(part["title"], tuple(steps), part.get("seconds", math.inf))

    def _output(self, name: str, command: str) -> Output:
        words, places = merged(self._own, self._plain), ("device=", "paths.results=", "table.timing.")
        filled = {
            "{words}": [word for word in words if word.partition("=")[0] not in ("retry", "dry_run", "status")],
            "{where}": [word for word in self._given if word.startswith(places)],
        }
        said: list[str] = []
        for word in shlex.split(command):
            said += filled.get(word, [word.replace("{device}", self.config.device)])
        try:
            place = device_name(find_device(self.config.device))
        except DeviceError:
            place = self.config.device
        suffix = "json" if "--json" in said else "txt"
        folder = self.config.paths.results / "bench"
        return Output(name, tuple(said), folder / f"{name}-{device_slug(place)}.{suffix}")

    def _of_table(self, number: str) -> Iterator[Training]:
        given = [word for word in self._given if not word.startswith("table.timing.")]
        for run in plan(Command.of(*merged([f"table={number}"], given))):
            cell = f"optim={run.cell.method}" + (f" geometry={run.cell.geometry}" if run.cell.geometry else "")
            yield Training(f"table={number} {cell} seed={run.settings.seed}", run, self.config)

    def _training(self, label: str) -> Training:
        (run,) = plan(Command.of(*merged([*self._own, *label.split()], self._plain)))
        return Training(label, replace(run, folder=self._folder), self.config)


def _minutes(text: str) -> float:
    try:
        minutes = float(text or "inf")
    except ValueError:
        minutes = math.nan
    if not minutes > 0:
        raise UsageError(f"minutes={text} must be a number > 0.")
    return minutes


def _numbers(text: str, count: int) -> set[int]:
    """The parts that are asked for, of ``count``."""
    everything = set(range(1, count + 1))
    try:
        numbers = {int(number) for number in text.split(",")} if text else everything
    except ValueError as error:
        raise UsageError(f"parts={text} must be numbers of parts, like parts=1,3.") from error
    if not numbers <= everything:
        raise UsageError(f"parts={text} is not possible: the list has parts 1 to {count}.")
    return numbers
