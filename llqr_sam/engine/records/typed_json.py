"""Dataclasses as JSON and back, every key and type checked.

A number that is not finite is ``null``, and a field that has a default is left out where it has that value. Any other
field must be there, and a key that is not a field is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


class DamagedRecordError(ValueError):
    """A file that cannot be read as what it should be: the message is one line with the file and the reason."""


def to_json(instance: Any) -> str:
    """Sorted keys, one space of indent, a newline at the end."""
    return json.dumps(_finite(_plain(instance)), sort_keys=True, indent=1, allow_nan=False) + "\n"


def from_json(kind: type[T], content: bytes, version: int) -> T:
    """Inverse of ``to_json`` for a dataclass with a field ``schema``.

    Raises:
        ValueError: not JSON, another schema version, or a missing, unknown or mistyped key.
        RecursionError: nested too deep.
    """
    tree = json.loads(content.decode(), parse_constant=_refuse_constant)
    if not isinstance(tree, dict):
        raise ValueError(f"a record is an object, not {_json_name(tree)}")
    found = tree.get("schema")
    if found != version or isinstance(found, bool):
        raise ValueError(f"schema is {found!r}, this version reads {version}{_advice(tree, version)}")
    instance = _parse(kind, tree, "")
    assert isinstance(instance, kind)
    return instance


def read(kind: type[T], path: Path, version: int) -> T:
    """``from_json`` of a file.

    Raises:
        DamagedRecordError: not JSON, another schema version, or a missing, unknown or mistyped key.
        OSError: the file cannot be read.
    """
    try:
        return from_json(kind, path.read_bytes(), version)
    except (ValueError, RecursionError) as error:
        raise DamagedRecordError(f"{path}: {_one_line(error)}") from error


def read_all(kind: type[T], paths: Iterable[Path], version: int) -> tuple[list[T], list[str]]:
    """``read`` of each file that can be read, in their order; and a line for each other, its name and the reason."""
    instances: list[T] = []
    damaged: list[str] = []
    for path in paths:
        try:
            instances.append(read(kind, path, version))
        except DamagedRecordError as error:
            damaged.append(str(error))
        except OSError as error:
            damaged.append(f"{path}: {_one_line(error)}")
    return instances, damaged


def _one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _advice(tree: dict[str, Any], version: int) -> str:
    """What to do about a record of another schema version; nothing to say of JSON that is no record."""
    found = tree.get("schema")
    if not isinstance(found, int) or isinstance(found, bool):
        return ""
    if found > version:
        return ": update the code to read it"
    return f": the code of its commit, {tree.get('git_commit')}, reads it; here its run counts as missing"


def _parse(kind: Any, value: Any, where: str) -> Any:
    """``value`` as an instance of the annotation ``kind``; ``where`` names it in the message."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind) and isinstance(value, dict):
        return _parse_fields(kind, value, where)
    if origin is UnionType:
        if type(value) in arguments:
            return value
        return _parse(arguments[0], value, where)
    if origin is Literal and value in arguments:
        return value
    if origin is list and isinstance(value, list):
        return [_parse(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: _parse(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and type(value) in (int, float):
        return float(value)
    if type(value) is kind:
        return value
    expected = " or ".join(map(repr, arguments)) if origin is Literal else getattr(kind, "__name__", str(kind))
    raise ValueError(f"{where} is {_json_name(value)}, expected {expected}")


def _parse_fields(kind: Any, value: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind) if field.name in value or field.default is MISSING]
    inside = f"{where}." if where else ""
    for name in names:
        if name not in value:
            raise ValueError(f"{inside}{name} is missing")
    for name in value:
        if name not in hints:
            raise ValueError(f"{inside}{name} is not a key of a record")
    return kind(**{name: _parse(hints[name], value[name], inside + name) for name in names})


def _plain(tree: Any) -> Any:
    """Dataclasses as dictionaries, without the fields that have their default."""
    if is_dataclass(tree):
        values = {field.name: (getattr(tree, field.name), field.default) for field in fields(tree)}
        return {name: _plain(value) for name, (value, default) in values.items() if value is not default}
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    return [_plain(value) for value in tree] if isinstance(tree, list) else tree


def _finite(tree: Any) -> Any:
    """The same tree with ``None`` for every float that JSON cannot hold."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _json_name(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
