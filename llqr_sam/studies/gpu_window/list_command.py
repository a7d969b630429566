"""The command line of a list of steps: its own words, and those of train.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llqr_sam.studies.gpu_window.step_list import StepList
from llqr_sam.suite.config.command_line import keys, unknown
from llqr_sam.suite.config.errors import UsageError


@dataclass(frozen=True)
class ListCommand:
    """What was asked of a list.

    Attributes:
        steps: The list under the words of train.py.
        minutes: For which it may go on; ``None``: no limit.
        own: The other words of the script, as they were given; empty where they were not.
    """

    steps: StepList
    minutes: float | None
    own: dict[str, str]

    @classmethod
    def read(cls, path: Path, arguments: Sequence[str], others: Sequence[str] = ()) -> ListCommand:
        """Read the words of a script.

        Args:
            path: The list.
            arguments: Its ``key=value`` words: ``minutes=``, ``parts=``, its own, and train.py's.
            others: Keys of the script's own beside these two.

        Raises:
            UsageError: an impossible word.
        """
        own = dict.fromkeys(("minutes", "parts", *others), "")
        words = []
        for word in arguments:
            key, equals, value = word.partition("=")
            if key in own:
                own[key] = value
            elif equals and key.isidentifier() and key not in keys():
                raise UsageError(unknown(key, own))
            else:
                words.append(word)
        minutes, parts = _minutes(own.pop("minutes")), _numbers(own.pop("parts"))
        return cls(StepList(path, words, parts), minutes, own)

    @property
    def shows(self) -> bool:
        """Whether the list is to be shown and not begun."""
        return bool(self.steps.config.dry_run or self.steps.config.status)

    def carry_out(self) -> int:
        """Do what is missing, unless the list is only to be shown, and print what is left; the exit status."""
        status = 0 if self.shows else self.steps.run(self.minutes)
        print(*self.steps.lines(), sep="\n")
        return status


def _minutes(text: str) -> float | None:
    try:
        minutes = float(text) if text else None
    except ValueError:
        minutes = math.nan
    if minutes is not None and not 0 < minutes < math.inf:
        raise UsageError(f"minutes={text} must be a number > 0.")
    return minutes


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",") if text]
    except ValueError as error:
        raise UsageError(f"parts={text} must be numbers of parts, like parts=1,3.") from error
