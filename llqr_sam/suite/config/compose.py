"""From the words of a command line to a configuration, inside a Hydra application or without one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import cache

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from llqr_sam.repository import CONF
from llqr_sam.suite.config.command_line import checked_words
from llqr_sam.suite.config.schema import register


def compose_config(words: Sequence[str]) -> DictConfig:
    """The configuration that ``python train.py <words>`` runs, the caller's own.

    Raises:
        UsageError: a group, key or choice that does not exist.
        HydraException: a value of the wrong type.
    """
    return deepcopy(_composed(tuple(words)))


@cache  # tables share cells, and Hydra takes fifty times as long as a copy
def _composed(words: tuple[str, ...]) -> DictConfig:
    register()
    hydra_runs = GlobalHydra.instance().is_initialized()
    with nullcontext() if hydra_runs else initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=checked_words(words))
