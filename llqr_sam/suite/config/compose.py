"""From words of a command line to what the configuration files make of them, with few calls of Hydra: each takes 0.1 s.

Hydra composes once for each choice of the files that have a defaults list. Files without one (a network, a geometry, a
table) mostly fill their own group alone: they are merged here, and so are single values, as Hydra would do it.
Protocols, which have a base under them, are left to Hydra, and beside a file that fills other groups (a scale)
everything is.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import cache

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf, flag_override

from llqr_sam.repository import CONF
from llqr_sam.suite.config import sources
from llqr_sam.suite.config.command_line import checked_words, groups


def compose(words: Sequence[str]) -> DictConfig:
    """Composes what ``python train.py <words>`` runs; the result is the caller's own."""
    to_hydra: list[str] = []
    files: dict[str, str] = {}
    values: list[Override] = []
    checked = checked_words(words)
    reaching = any(_reaches_other_groups(o.key_or_group, o) for o in checked.values())
    for word, override in checked.items():
        key = override.key_or_group
        if override.is_sweep_override() or key.startswith("hydra"):
            to_hydra.append(word)
        elif key not in groups():
            values.append(override)
        elif not reaching and _is_plain(key, str(override.value())):
            files[key] = str(override.value())
        else:
            files.pop(key, None)  # the last word of a group counts
            to_hydra.append(word)
    config = deepcopy(compose_with_hydra(tuple(to_hydra)))
    with flag_override(config, "struct", False):
        for group, choice in files.items():
            config[group] = MISSING if group != "table" else None  # forget the file that Hydra chose
            config.merge_with({group: _load(group, choice)})
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config


@sources.cached
def compose_with_hydra(words: tuple[str, ...]) -> DictConfig:
    """Composes with Hydra alone, inside a Hydra application or without one."""
    hydra_runs = GlobalHydra.instance().is_initialized()
    with nullcontext() if hydra_runs else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", overrides=list(words))


def _reaches_other_groups(key: str, override: Override) -> bool:
    """Whether a word chooses a file that fills other groups too, after theirs: only Hydra knows the order."""
    if key not in groups() or override.is_sweep_override():
        return False
    return "@package _global_" in _text(key, str(override.value()))


def _is_plain(group: str, choice: str) -> bool:
    """Whether the file of a choice has neither a defaults list nor a package header, and replaces none that reaches
    other groups: a method asks for its geometry, a data set for its network. Each data set names a protocol.
    """
    text = _text(group, choice)
    alone = bool(text) and "\ndefaults:" not in f"\n{text}" and "@package" not in text
    return alone and group != "protocol" and group not in _asking_groups()


@cache
def _asking_groups() -> frozenset[str]:
    """The groups of conf/ with files that choose files of other groups."""
    files = (path for path in CONF.glob("*/**/*.yaml") if "override /" in path.read_text("utf-8"))
    return frozenset(path.relative_to(CONF).parts[0] for path in files)


@sources.cached
def _text(group: str, choice: str) -> str:
    """The file of a choice; empty if there is none, as for ``table=null``."""
    file = sources.files(group).get(choice)
    return file.read_text("utf-8") if file else ""


@sources.cached
def _load(group: str, choice: str) -> DictConfig | ListConfig:
    return OmegaConf.load(sources.files(group)[choice])
