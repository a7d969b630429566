"""Imports the packages in which a user registers parts of their own (``llqr_sam.plugins``), each once a process.

They are those that a command names, ``plugins=[my_package]``, and the installed ones with an entry point in the group
``llqr_sam.plugins``.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import sysconfig
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

GROUP = "llqr_sam.plugins"


class PluginError(ValueError):
    """A plugin cannot be imported; the message is one sentence."""


@dataclass(frozen=True)
class _Plugin:
    folder: str  # that Python finds it in
    version: str  # of its distribution, or the SHA-256 of its source


_loaded: dict[str, _Plugin | PluginError] = {}  # by the module's name


def load(plugins: Mapping[str, str]) -> None:
    """Import the installed plugins and the named ones: module -> folder that is searched too, after Python's own.

    Raises:
        PluginError: one is not found, fails, or registers a name that is taken.
    """
    for name, said in _installed().items():
        _load(name, said)
    for name, folder in plugins.items():
        if folder not in sys.path:
            sys.path.append(folder)
        _load(name, f"plugins=[{name}]", f": it is neither installed nor in {folder}")


def loaded() -> dict[str, str]:
    """Module -> folder of every plugin of this process, for ``load`` in another."""
    return {name: plugin.folder for name, plugin in _loaded.items() if isinstance(plugin, _Plugin)}


def versions() -> dict[str, str]:
    """Module -> version of every plugin: its distribution's, or ``sha256:`` and the hash of its source as imported."""
    return {name: plugin.version for name, plugin in _loaded.items() if isinstance(plugin, _Plugin)}


def lacking(packages: Mapping[str, str]) -> list[str]:
    """The modules that a record's ``packages`` names as plugins, and that this process has not imported."""
    return [name for name, version in packages.items() if version.startswith("sha256:") and name not in sys.modules]


@cache
def _installed() -> dict[str, str]:
    """Module -> what messages call it, of each entry point."""
    return {entry.module: f"the entry point {GROUP}: {entry.name}" for entry in metadata.entry_points(group=GROUP)}


def _load(name: str, said: str, where: str = ": it is not installed") -> None:
    if name not in _loaded:
        try:
            _loaded[name] = _described(importlib.import_module(name))
        except (Exception, SystemExit) as error:
            # Kept: a second import would register again what the first one did.
            _loaded[name] = PluginError(f"{said} cannot be imported{_reason(name, error, where)}.")
    found = _loaded[name]
    if isinstance(found, PluginError):
        raise found


def _reason(name: str, error: BaseException, where: str) -> str:
    """What is wrong with a plugin, and in which line of it."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        return where
    reason = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, SyntaxError):
        return f": {reason}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    own = [frame for frame in frames if not Path(frame.filename).is_relative_to(Path(__file__).parents[1])]
    line = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return f": {kind}{reason}{line}"


def _described(module: ModuleType) -> _Plugin:
    """Where a module was found and which version it is."""
    if module.__file__ is None:
        raise ImportError("it has no __init__.py")
    path, levels = Path(module.__file__).resolve(), module.__name__.count(".")
    is_package = hasattr(module, "__path__")
    folder = path.parents[levels + is_package]
    if str(folder) in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for distribution in metadata.packages_distributions().get(module.__name__.partition(".")[0], []):
            return _Plugin(str(folder), metadata.version(distribution))
    digest = hashlib.sha256()
    for file in sorted(path.parent.rglob("*.py")) if is_package else [path]:
        digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return _Plugin(str(folder), f"sha256:{digest.hexdigest()}")
