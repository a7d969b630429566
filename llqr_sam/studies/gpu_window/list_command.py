"""The command line of a list of steps: words of its own beside those of train.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from llqr_sam.studies.gpu_window.step_list import StepList
from llqr_sam.suite.config.command_line import keys, unknown
from llqr_sam.suite.config.errors import UsageError


class ListCommand:
    """A command that carries out a list.

    Args:
        path: The list.
        arguments: Words ``key=value``: ``minutes=``, ``parts=``, the script's other ones, and train.py's.
        others: Further keys of the script.

    Attributes:
        own: The script's own words; empty where they were not given.
        steps: The list.
        shows: Whether the list is to be shown and not begun.

    Raises:
        UsageError: an impossible word.
    """

    def __init__(self, path: Path, arguments: Sequence[str], others: Sequence[str] = ()) -> None:
        self.own = dict.fromkeys(("minutes", "parts", *others), "")
        words = []
        for word in arguments:
            key, equals, value = word.partition("=")
            if key in self.own:
                self.own[key] = value
            elif equals and key.isidentifier() and key not in keys():
                raise UsageError(unknown(key, self.own))
            else:
                words.append(word)
        minutes, parts = self.own["minutes"], self.own["parts"]
        try:
            self._minutes = float(minutes or "inf")
        except ValueError:
            self._minutes = math.nan
        if not self._minutes > 0:
            raise UsageError(f"minutes={minutes} must be a number > 0.")
        try:
            numbers = [int(number) for number in parts.split(",") if parts]
        except ValueError as error:
            raise UsageError(f"parts={parts} must be numbers of parts, like parts=1,3.") from error
        self.steps = StepList(path, words, numbers)
        self.shows = bool(self.steps.config.dry_run or self.steps.config.status)

    def carry_out(self, after_step: Callable[[], None] = lambda: None) -> int:
        """Do what is missing, unless the list is only to be shown, and print what is left; returns the exit status."""
        status = 0 if self.shows else self.steps.run(self._minutes, after_step)
        print(*self.steps.lines(), sep="\n")
        return status
