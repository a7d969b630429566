"""Checks the user's configuration files that a command names, before Hydra composes them.

Each mistake is a UsageError of one line with file, key and value: Hydra's errors say the file of few mistakes, and of
bad YAML they say much.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml  # type: ignore[import-untyped]
from omegaconf import MISSING, OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from llqr_sam.suite.config import sources
from llqr_sam.suite.config.errors import MISTAKES, UsageError, did_you_mean, explain
from llqr_sam.suite.config.schema import PLUGINS, Schema, code_in_a_file

_GLOBAL = re.compile(r"^#\s*@package\s+_global_\s*$", re.MULTILINE)
_SUBJECT = re.compile(r"[a-z_]+(\.\w+)*(?=[=:\s])")  # of a message: optim.rho=-1 must be >= 0.
_LACKING = re.compile(r"Missing mandatory value: ([\w.]+)$")

Find = Callable[[str, str], Path | None]  # group and name -> the file


@dataclass(frozen=True)
class OwnFile:
    """A configuration file of the user that is right by itself: it is YAML, and keys and types are the schema's."""

    group: str  # optim, or optim/part
    path: Path
    tree: dict[str, Any]  # group -> keys, without the defaults list
    defaults: tuple[tuple[str, str], ...]  # group and choice of each entry of the defaults list

    @property
    def root(self) -> str:
        """``optim`` of ``optim/part``."""
        return self.group.partition("/")[0]

    def has(self, key: str) -> bool:
        """Whether the file sets a dotted key, itself or in a table's words."""
        if any(word.partition("=")[0] == key for word in self.words):
            return True
        node: Any = self.tree
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                return False
            node = node[part]
        return True

    @property
    def words(self) -> list[str]:
        """A table's choices and words, as words of a command line."""
        table = self.tree.get("table") or {}
        methods = [method for method in table.get("methods") or [] if isinstance(method, dict)]
        chosen = [(key, value) for key in ("dataset", "arch") for value in table.get(f"{key}s") or []]
        chosen += [(key, method[key]) for key in ("optim", "geometry") for method in methods if method.get(key)]
        return [*(f"{key}={value}" for key, value in chosen), *map(str, table.get("words") or [])]

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put the file's name before any mistake that has none."""
        try:
            yield
        except MISTAKES as mistake:
            message = explain(mistake)
            if message.startswith(sources.shown(self.path)):
                raise
            raise UsageError(f"{sources.shown(self.path)}: {message.removeprefix(f'{self.root}.')}") from mistake


def used(chosen: Mapping[str, Sequence[str]], find: Find = sources.own_file) -> list[OwnFile]:
    """The user's files among the choices (group -> names), and those that their defaults lists name, all checked."""
    waiting = [(group, name) for group, names in chosen.items() for name in names]
    if "protocol" not in chosen:
        waiting += [("protocol", name) for name in chosen.get("dataset", ()) if not _names_protocol(name)]
    found: dict[tuple[str, str], OwnFile] = {}
    for choice in waiting:  # which grows
        if choice not in found and (path := find(*choice)) is not None:
            found[choice] = _read(choice[0], path)
            waiting += found[choice].defaults
    for choice in found:
        _refuse_circle(choice, found)
    return list(found.values())


def _refuse_circle(start: tuple[str, str], found: Mapping[tuple[str, str], OwnFile]) -> None:
    """Refuse defaults lists that come back to the file that they began at: Hydra would follow them without end."""
    reached = [start]
    for choice in reached:  # which grows
        for following in found[choice].defaults if choice in found else ():
            if following == start:
                problem = f"its defaults come back to it, by {'/'.join(choice)}. Leave {'/'.join(start)} out there."
                raise UsageError(f"{sources.shown(found[start].path)}: {problem}")
            if following not in reached:
                reached.append(following)


@contextmanager
def naming(chosen: Mapping[str, Sequence[str]], given: Iterable[str]) -> Iterator[None]:
    """Put the user's file before a mistake of which it is the cause: it sets the key, and no word does.

    Args:
        chosen: The words that choose files: group -> names.
        given: The keys of all words.
    """
    try:
        yield
    except (*MISTAKES, ValueError) as mistake:
        message, key = _subject(explain(mistake))
        of_protocol = re.sub(r"^optim\.", "protocol.methods.", key)  # from which methods take their values
        files = [file for file in used(chosen) if file.root == key.partition(".")[0] or file.has(of_protocol)]
        setting = [file for file in files if file.has(key) or file.has(of_protocol)] or files[:1]
        if key in set(given) - set(chosen) or not setting:
            raise
        with setting[-1].named():
            raise UsageError(message) from mistake


def _subject(message: str) -> tuple[str, str]:
    """A message, and the key that it is about."""
    about = _SUBJECT.match(message)
    key = about[0] if about else ""
    if lacking := _LACKING.search(message):
        return f"{lacking[1]} is missing, and {key} needs it.", lacking[1]
    return message, key


def _names_protocol(dataset: str) -> bool:
    """Whether a data set's file chooses a protocol; else it has that of its name, if there is one."""
    path = sources.own_file("dataset", dataset)
    return path is not None and any(group == "protocol" for group, _ in _read("dataset", path).defaults)


@sources.cached
def _read(group: str, path: Path) -> OwnFile:
    """Read and check a file."""
    text, where = _text(path), sources.shown(path)
    tree = _parsed(text, where)
    entries = tree.pop("defaults", None) or []
    if not isinstance(entries, list):
        raise UsageError(f"{where}: defaults={entries} must be a list.")
    for entry in entries:
        _check_package(entry, group, where)
    defaults = tuple(choice for entry in entries for choice in _choices(entry, group))
    root = group.partition("/")[0]
    file = OwnFile(group, path, tree if _GLOBAL.search(text) else {root: tree}, defaults)
    _check(file, where)
    return file


def _text(path: Path) -> str:
    where = sources.shown(path)
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {error.strerror}.") from error


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        tree = yaml.load(text, get_yaml_loader())
    except (yaml.YAMLError, ValueError) as error:
        raise not_yaml(error, where) from error
    if not isinstance(tree, dict) or not tree:
        raise UsageError(f"{where} has no keys. Write key: value, one a line.")
    return tree


def not_yaml(error: Exception, where: str = "a file of conf/") -> UsageError:
    """The line for what the YAML parser raises, which knows the file's name where it has read the file itself."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return UsageError(f"{where} is not YAML: {' '.join(str(error).split())}.")
    path = Path(error.problem_mark.name)
    named = sources.shown(path) if path.is_file() else where
    return UsageError(f"{named}, line {error.problem_mark.line + 1}: {error.problem}. It is not YAML.")


def _choices(entry: Any, group: str) -> Iterator[tuple[str, str]]:
    """Group and name of the files that an entry of a defaults list of ``group`` names."""
    pairs = entry.items() if isinstance(entry, dict) else [("", entry)]
    for key, names in pairs:
        for name in names if isinstance(names, list) else [names]:
            place = "/".join(part.partition("@")[0] for part in (str(key).split(" ")[-1], str(name)) if part)
            whole = place.removeprefix("/") if place.startswith("/") else f"{group}/{place}"
            said = str(key).startswith("optional ") or whole.startswith("hydra/")
            if name is not None and not place.endswith("_self_") and not said:
                yield whole.rpartition("/")[0], whole.rpartition("/")[2]


def _check_package(entry: Any, group: str, where: str) -> None:
    """Check that a part of the file's own kind fills the file itself: Hydra would put it one level deeper."""
    if isinstance(entry, str) and "/" in entry and "@" not in entry and not entry.startswith("/"):
        raise UsageError(f"{where}: defaults name {entry}: write {entry}@_here_, or its keys go to {group}.{entry}.")


def _check(file: OwnFile, where: str) -> None:
    """Check the file's keys and types, and that nothing is missing where no other file fills its group."""
    with file.named():
        if PLUGINS in file.tree:
            raise code_in_a_file(f"{PLUGINS}=[{','.join(map(str, file.tree[PLUGINS] or []))}]")
        try:
            merged = OmegaConf.merge(OmegaConf.structured(Schema), file.tree)
        except ConfigKeyError as error:
            kind = error.object_type
            keys = sorted(each.name for each in fields(kind)) if kind and is_dataclass(kind) else []
            key, remedy = str(error.full_key).removeprefix(f"{file.root}."), did_you_mean(str(error.key), keys)
            listed = f". Keys there: {', '.join(keys)}" if remedy == "." else ""
            raise UsageError(f"unknown key {key}{listed}{remedy}") from error
        except OmegaConfBaseException as error:
            found = next(_no_groups(file.tree, Schema), None)
            if error.full_key or found is None:
                raise
            key, value = found
            raise UsageError(f"{key.removeprefix(f'{file.root}.')}={value} must be a group of keys.") from error
    for group, name in file.defaults:
        if "$" not in name and name not in (known := sources.files(group)):
            raise UsageError(f"{where}: defaults name {group}/{name}, which is not here{did_you_mean(name, known)}")
    inherited = {group for group, _ in file.defaults if group.partition("/")[0] == file.root}
    if file.group not in file.tree or file.root in inherited or file.group == "protocol":
        return  # another file says the rest; below a protocol there is conf/protocol/base/own.yaml
    tree: Any = OmegaConf.to_container(merged)
    for key in _missing(tree[file.root]):
        if key == "name" if inherited else "." not in key or file.root == "table":
            raise UsageError(f"{where}: {key} is missing.")
    if file.root == "table" and (number := tree["table"]["number"]) != file.path.stem:
        raise UsageError(f"{where}: number={number} must be {file.path.stem}, the file's name, which table= chooses.")


def _no_groups(tree: Mapping[str, Any], kind: type[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of what is no group of keys where the schema has one: OmegaConf does not say which."""
    hints = get_type_hints(kind)
    for key, value in tree.items():
        options = (hints.get(key), *get_args(hints.get(key)))
        group = next((option for option in options if isinstance(option, type) and is_dataclass(option)), None)
        if isinstance(value, dict) and group is not None:
            yield from _no_groups(value, group, f"{prefix}{key}.")
        elif not isinstance(value, dict) and (
            group is not None or any(get_origin(option) is dict for option in options)
        ):
            yield f"{prefix}{key}", value


def _missing(node: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys without a value."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        name = f"{prefix}[{key}]" if isinstance(node, list) else f"{prefix}.{key}".removeprefix(".")
        if child == MISSING:
            yield name
        yield from _missing(child, name)
