"""Words that choose among runs by their settings: ``optim=sam,llqr_sam optim.rho=0.1``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llqr_sam.engine.settings.flat import flat, setting_types
from llqr_sam.suite.config.command_line import parsed, values
from llqr_sam.suite.config.errors import UsageError, did_you_mean
from llqr_sam.suite.plan.labels import text

# What a group's name stands for among a run's settings.
NAMES = {
    "dataset": "dataset.name",
    "arch": "arch.name",
    "optim": "optim.name",
    "geometry": "optim.divergence",
    "structure": "optim.structure",
}
FILES = ("protocol", "precision", "scale", "table")  # a run has their settings, not their names


@dataclass(frozen=True)
class Filter:
    """A run is chosen if each of these settings has one of the values, which are text as in a word."""

    chosen: dict[str, list[str]]

    @classmethod
    def of(cls, words: Sequence[str]) -> Filter:
        """The words as a filter; one whose key is no setting of a run is a UsageError."""
        known = setting_types()
        chosen = {}
        for word, override in zip(words, parsed(words), strict=True):
            key = NAMES.get(override.key_or_group, override.key_or_group)
            if key in FILES:
                own = [each for each in known if each.startswith(f"{key}.")]
                remedy = f"Choose by its settings: {', '.join(own)}." if own else "Choose by single settings."
                raise UsageError(f"{word} names a file, and a run is known by its settings alone. {remedy}")
            if key not in known:
                raise UsageError(f"{word} chooses no runs: {key} is no setting of one{did_you_mean(key, known)}")
            chosen[key] = values(override)
        return cls(chosen)

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Whether a run with this ``RunSettings.as_dict()`` is chosen."""
        settings = flat(config)
        return all(any(same(typed, settings.get(key)) for typed in asked) for key, asked in self.chosen.items())

    def explain(self, configs: Sequence[Mapping[str, Any]]) -> str:
        """Why none of the runs is chosen: the first setting that none has, and what they have."""
        words = {key: f"{key}={','.join(asked)}" for key, asked in self.chosen.items()}
        for key, word in words.items():
            if not any(Filter({key: self.chosen[key]}).matches(config) for config in configs):
                found = sorted({text(flat(config).get(key)) for config in configs})
                return f"none has {word}; they have {', '.join(found)}"
        return f"none has {' '.join(words.values())} together"


def same(typed: str, value: Any) -> bool:
    """Whether a setting has the value that was typed, however it is written; ``None`` is null or none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(typed) == value
        except ValueError:
            return False
    return typed.lower() in ("null", "none") if value is None else typed.lower() == text(value).lower()
