"""How often a run is evaluated: ``protocol.evaluate_every``.

Best over training is a best of so many evaluations, and the more there are, the higher it is; so the number is a
setting. ``null`` is after each epoch. The last evaluation is always at the end of training.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluateEvery:
    """A number of optimizer steps or of epochs between two evaluations, written ``2000steps`` or ``2epochs``."""

    number: int = 1
    unit: str = "epochs"  # steps | epochs

    @classmethod
    def parse(cls, text: str | None) -> EvaluateEvery:
        """Read the setting.

        Raises:
            ValueError: it is not such a number.
        """
        if text is None:
            return cls()
        match = re.fullmatch(r"([1-9][0-9]*)(step|epoch)s?", text)
        if match is None:
            raise ValueError(
                f"protocol.evaluate_every={text} must be a number of steps or epochs in one word, like 2000steps or "
                "2epochs; null is 1epochs."
            )
        return cls(int(match[1]), f"{match[2]}s")

    @property
    def setting(self) -> str | None:
        """What ``parse`` reads it from, one text for each meaning."""
        return None if self == EvaluateEvery() else f"{self.number}{self.unit}"

    def steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps between two evaluations."""
        return self.number * (steps_per_epoch if self.unit == "epochs" else 1)
