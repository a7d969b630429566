"""From a composed configuration to the settings of one run, every value checked before any data is touched."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.engine.tasks import registry as tasks
from llqr_sam.suite.config.command_line import groups
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import Config, PathsConfig


def run_settings(config: DictConfig, devices: int) -> RunSettings:
    """Makes the settings of the run that ``config`` describes.

    Args:
        config: Composed.
        devices: How many train the run together, >= 1.

    Raises:
        UsageError: an impossible value or pair; the message names the key, the value and what would be right.
        OmegaConfBaseException: a value of the wrong type.
    """
    _check_geometry(config)
    try:
        parts = ("dataset", "arch", "optim", "protocol", "precision")
        tree = {part: OmegaConf.to_container(config[part], resolve=True) for part in parts}
        settings = RunSettings.from_dict({**tree, "seed": config.seed})
        tasks.check(settings, devices)
    except OmegaConfBaseException:  # some are ValueErrors too, and know their key
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error
    _check_devices(config, devices)
    return settings


def typed_config(composed: DictConfig) -> Config:
    """The part of a composed configuration that says where and how, as typed objects without interpolations."""
    values: dict[str, Any] = {field.name: composed[field.name] for field in fields(Config)}
    for name, value in values.items():
        if OmegaConf.is_config(value):
            values[name] = OmegaConf.to_object(value)
    paths = {name: Path(value) for name, value in vars(values["paths"]).items()}
    return Config(**values | {"paths": PathsConfig(**paths)})


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
