"""Which of the records a person asks about: over which settings, and which runs.

Words are as for train.py, with the keys of a record's settings: ``optim.rho``, ``protocol.epochs``, ``seed``. A group's
name stands for the name in its settings: ``dataset=digits``, ``optim=sam``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llqr_sam.report.sweeps.sweep import Outcome, Sweep, grouped
from llqr_sam.suite.config.command_line import parsed, values
from llqr_sam.suite.config.errors import UsageError, did_you_mean
from llqr_sam.suite.plan.labels import short_names, text
from llqr_sam.suite.status.filters import NAMES, same


@dataclass(frozen=True)
class Question:
    """Settings to compare, and the values that others must have."""

    over: tuple[str, ...]
    chosen: dict[str, list[str]]  # key -> any of these values

    @classmethod
    def of(cls, words: Sequence[str], runs: Sequence[Outcome]) -> Question:
        """Reads ``over=`` and words that choose; a key that no run has is a UsageError."""
        over: list[str] = []
        chosen: dict[str, list[str]] = {}
        for override in parsed(words):
            if override.key_or_group == "over":
                over += [_key(name, runs) for name in values(override)]
            else:
                chosen[_key(override.key_or_group, runs)] = values(override)
        if not over:
            raise UsageError(f"over= is missing: it names the settings to compare. {_vary(runs)}")
        return cls(tuple(dict.fromkeys(over)), chosen)

    @property
    def name(self) -> str:
        """``optim.rho-digits-sam``: of files."""
        short = short_names(list(self.chosen))
        named = {key: "+".join(asked).replace("/", "_") for key, asked in self.chosen.items()}
        parts = [value if key in NAMES.values() else f"{short[key]}_{value}" for key, value in named.items()]
        return "-".join(["+".join(self.over), *parts])

    def answer(self, runs: Sequence[Outcome]) -> Sweep:
        """The points of the chosen runs, series by series; each series has two values or more of ``over``.

        A UsageError if no run is chosen, or none has a second value.
        """
        kept = list(runs)
        for key, asked in self.chosen.items():
            there, name = _known(key, kept), _typed(key)
            kept = [run for run in kept if any(same(value, run.settings.get(key)) for value in asked)]
            if not kept:
                meant = did_you_mean(asked[0], there)
                raise UsageError(
                    f"no record has {name}={','.join(asked)} here. Their {name}: {', '.join(there)}{meant}"
                )
        series = grouped(kept).series(self.over).values()
        several = [points for points in series if len({tuple(map(point.named, self.over)) for point in points}) > 1]
        if not several:
            found = ((key, value) for key in self.over for value in _known(key, kept) if value != text(None))
            one_value = ", ".join(f"{key}={value}" for key, value in found)
            problem = f"no two records that are otherwise equal differ in {' or '.join(map(_typed, self.over))}"
            raise UsageError(f"{problem}{f' (here {one_value})' * bool(one_value)}. {_vary(kept)}")
        return grouped([run for points in several for point in points for run in point.runs]).ordered(self.over)


def _key(name: str, runs: Iterable[Outcome]) -> str:
    """The settings' key for a word's; a UsageError if no run has it."""
    key = NAMES.get(name, name)
    known = {*NAMES.values(), *(key for run in runs for key in run.settings)}
    if key in known:
        return key
    near = [other for other in sorted(known) if other.rpartition(".")[2] == name.rpartition(".")[2]]
    near += difflib.get_close_matches(name, sorted({*known, *NAMES}), n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise UsageError(f"no record has a setting {name}{meant}. {_vary(list(runs))}")


def _vary(runs: Sequence[Outcome]) -> str:
    """A sentence with the settings that differ, for an error."""
    sweep = grouped(runs)
    keys = ", ".join(map(_typed, sweep.differing))
    return f"Settings that vary there: {keys}." if keys else "No setting varies there."


def _typed(key: str) -> str:
    """``optim`` for ``optim.name``."""
    return next((group for group, name in NAMES.items() if name == key), key)


def _known(key: str, runs: Iterable[Outcome]) -> list[str]:
    return list(dict.fromkeys(text(run.settings.get(key)) for run in runs))
