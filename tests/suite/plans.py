"""Plans of command lines, composed once a session."""

from __future__ import annotations

from functools import cache

from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.plan.plan import Planned, plan


@cache
def plan_of(*words: str) -> tuple[Planned, ...]:
    """The runs of ``python train.py <words>``."""
    return tuple(plan(Command.of(*words)))


def settings_of(*words: str) -> RunSettings:
    """The settings of the single run of ``python train.py <words>``."""
    (run,) = plan_of(*words)
    return run.settings
