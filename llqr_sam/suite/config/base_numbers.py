"""The numbers of a base optimizer, which the protocol has for its own base and for Adam: ``${base_number:lr}``.

the protocol's own base             protocol.methods
adam, adamw                         protocol.methods.adaptive
sgd                                 protocol.methods
any other class                     its own defaults, and the protocol's weight decay if it has such an argument
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from llqr_sam.methods import bases

_ONLY = {"momentum": ("sgd",), "betas": ("adam", "adamw")}  # which bases have it as a setting


def base_number(name: str, *, _parent_: DictConfig, _root_: DictConfig) -> Any:
    """Returns a number of the base that ``_parent_``, a method, names; ``None`` where it has none or its class says.

    Args:
        name: lr, momentum, betas or weight_decay.
        _parent_: The method, whose ``base`` names the optimizer.
        _root_: The whole configuration, which may have no protocol yet.
    """
    methods = OmegaConf.select(_root_, "protocol.methods")
    if methods is None:
        return None
    base = _parent_.base
    if base not in _ONLY.get(name, (base,)):
        return None
    if name == "weight_decay":
        known = base in bases.OWN or bases.takes(base, name)
        return OmegaConf.select(methods, name) if known else None
    if base in _ONLY["betas"] and base != methods.base:
        return OmegaConf.select(methods.adaptive, name)
    return OmegaConf.select(methods, name) if base in (methods.base, "sgd") else None


OmegaConf.register_new_resolver("base_number", base_number, replace=True)
