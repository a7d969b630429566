"""Stub."""

from __future__ import annotations

from torch.optim import Optimizer

_OWN: dict[str, type[Optimizer]] = {}


def register(name: str, kind: type[Optimizer]) -> None:
    """Stub."""
    if name in (*_OWN, "sgd", "adam", "adamw"):
        raise ValueError(f"the optimizer name {name} is taken. Register {kind.__name__} under another.")
    _OWN[name] = kind
