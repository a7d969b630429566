"""From a composed configuration to the settings of one run, every value checked before any data is touched."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llqr_sam.engine.loop.schedules import SCHEDULES
from llqr_sam.engine.settings.run_settings import (
    AUTOCASTS,
    REFRESHES,
    ArchSettings,
    DatasetSettings,
    PrecisionSettings,
    ProtocolSettings,
    RunSettings,
)
from llqr_sam.engine.tasks import registry as tasks
from llqr_sam.methods.factory import MethodSpec
from llqr_sam.suite.config.command_line import groups
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import Config, PathsConfig

Part = TypeVar("Part")

_CHOICES: dict[str, tuple[str | None, ...]] = {
    "dataset.crop": ("image", "batch"),
    "protocol.schedule": SCHEDULES,
    "precision.autocast": AUTOCASTS,
    "precision.refresh": tuple(REFRESHES),
}

_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "dataset.label_noise": (lambda x: 0 <= x < 1, "in [0, 1)"),
    "dataset.workers": (lambda n: n >= 0, ">= 0"),
    "protocol.epochs": (lambda n: n >= 1, ">= 1"),
    "protocol.batch_size": (lambda n: n >= 1, ">= 1"),
    "protocol.max_tokens": (lambda n: n >= 1, ">= 1"),
    "protocol.warmup_steps": (lambda n: n >= 1, ">= 1"),
    "protocol.dropout": (lambda x: 0 <= x < 1, "in [0, 1)"),
    "protocol.bleu_every": (lambda n: n >= 1, ">= 1"),
    "protocol.warmup_epochs": (lambda x: 0 <= x < math.inf, ">= 0"),
    "protocol.gamma": (lambda x: 0 < x < math.inf, "> 0"),
    "protocol.label_smoothing": (lambda x: 0 <= x < 1, "in [0, 1)"),
    "precision.accumulate": (lambda n: n >= 1, ">= 1"),
    "seed": (lambda n: 0 <= n < 2**63, "in [0, 2^63)"),
}


def run_settings(config: DictConfig, devices: int) -> RunSettings:
    """Makes the settings of the run that ``config`` describes.

    Args:
        config: Composed.
        devices: How many train the run together, >= 1.

    Raises:
        UsageError: an impossible value or pair; the message names the key, the value and what would be right.
        OmegaConfBaseException: a value of the wrong type.
    """
    _check_values(config)
    _check_geometry(config)
    _check_devices(config, devices)
    try:
        settings = RunSettings(
            dataset=_part(DatasetSettings, config.dataset),
            arch=_part(ArchSettings, config.arch),
            optim=_part(MethodSpec, config.optim),
            protocol=_part(ProtocolSettings, config.protocol),
            precision=_part(PrecisionSettings, config.precision),
            seed=config.seed,
        )
        settings.validate()
        tasks.check(settings, devices)
    except OmegaConfBaseException:  # some are ValueErrors too, and know their key
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error
    return settings


def typed_config(composed: DictConfig) -> Config:
    """The part of a composed configuration that says where and how, as typed objects without interpolations."""
    values: dict[str, Any] = {field.name: composed[field.name] for field in fields(Config)}
    for name, value in values.items():
        if OmegaConf.is_config(value):
            values[name] = OmegaConf.to_object(value)
    paths = {name: Path(value) for name, value in vars(values["paths"]).items()}
    return Config(**values | {"paths": PathsConfig(**paths)})


def _part(kind: type[Part], node: DictConfig) -> Part:
    """The node as plain data of ``kind``, interpolations resolved, keys that are not the run's left out."""
    tree: Any = OmegaConf.to_container(node, resolve=True)
    return kind(**{name: tree[name] for name in get_type_hints(kind)})


def _check_values(config: DictConfig) -> None:
    for key, choices in _CHOICES.items():
        value = OmegaConf.select(config, key)
        if value not in choices:
            known = ", ".join("null" if choice is None else choice for choice in choices)
            raise UsageError(f"{key}={value} is not possible. Choose from: {known}.")
    for key, (holds, range_) in _RANGES.items():
        value = OmegaConf.select(config, key)
        if value is not None and not holds(value):
            raise UsageError(f"{key}={value} must be {range_}.")
    if config.protocol.warmup_epochs >= config.protocol.epochs:
        warmup, epochs = config.protocol.warmup_epochs, config.protocol.epochs
        raise UsageError(f"protocol.warmup_epochs={warmup} must be less than protocol.epochs={epochs}.")
    schedule, steps = config.protocol.schedule, config.protocol.warmup_steps
    if (schedule == "inverse_sqrt") != (steps is not None):
        raise UsageError(
            f"protocol.warmup_steps={'null' if steps is None else steps} does not fit protocol.schedule={schedule}: "
            "inverse_sqrt needs a number of steps, every other schedule null."
        )
    milestones = list(config.protocol.milestones)
    if milestones != sorted(set(milestones)) or any(epoch < 1 for epoch in milestones):
        raise UsageError(f"protocol.milestones={milestones} must be epochs >= 1 in rising order.")


def _check_geometry(config: DictConfig) -> None:
    """A geometry and a structure are given exactly where the optimizer learns a metric."""
    learns = "llqr" in (config.optim.probe, config.optim.transport)
    for group in ("geometry", "structure"):
        name = config[group].name
        if learns and name is None:
            choices = ", ".join(choice for choice in groups()[group] if choice != "none")
            raise UsageError(f"{group}=none leaves optim={config.optim.name} without one. Choose from: {choices}.")
        if not learns and name is not None:
            raise UsageError(f"{group}={name} has no use with optim={config.optim.name}: it has no learned metric.")


def _check_devices(config: DictConfig, devices: int) -> None:
    """Every device has the same share of every minibatch, and a metric is spread where there is one and where to."""
    for key in ("protocol.batch_size", "optim.refresh_batch"):
        size = OmegaConf.select(config, key)
        if size is not None and size % devices:
            raise UsageError(f"devices={devices} must divide {key}={size}: each has the same share of a minibatch.")
    batch_size, parts = config.protocol.batch_size, config.precision.accumulate
    if batch_size is not None and parts > (share := batch_size // devices):
        raise UsageError(f"precision.accumulate={parts} must be at most {share}, a device's share of a minibatch.")
    if config.optim.shard and devices == 1:
        raise UsageError("optim.shard=true spreads the learned metric over devices: it needs devices > 1.")
    if config.optim.shard and "llqr" not in (config.optim.probe, config.optim.transport):
        raise UsageError(f"optim.shard=true has no use with optim={config.optim.name}: it has no learned metric.")
