"""The settings of a run with dotted keys: ``optim.rho``. In ``RunSettings.as_dict`` they are nested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.methods.settings import Settings


def setting_types() -> dict[str, Any]:
    """Dotted key -> type of every setting that a run can have, in the order of conf/."""
    types: dict[str, Any] = {}
    hints = get_type_hints(RunSettings)
    for part in (field.name for field in fields(RunSettings)):
        kind = hints[part]
        inner = kind.key_types() if issubclass(kind, Settings) else None
        types |= {f"{part}.{key}": type_ for key, type_ in inner.items()} if inner is not None else {part: kind}
    return types


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """``{"optim": {"rho": 0.1}, "seed": 0}`` -> ``{"optim.rho": 0.1, "seed": 0}``."""
    values: dict[str, Any] = {}
    for part, value in config.items():
        values |= (
            {f"{part}.{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {part: value}
        )
    return values


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``flat`` at every level, ``optim.base_args.betas`` too; what is ``None`` is left out."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            values |= leaves(value, f"{prefix}{key}.")
        elif value is not None:
            values[prefix + key] = value
    return values
