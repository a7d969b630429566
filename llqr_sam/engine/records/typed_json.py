"""Dataclasses as JSON and back, every key and type checked by pydantic.

A number that is not finite is written as ``null``, and a field that equals its default is left out. When a file is
read, any other field must be there, and an unknown key is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


class DamagedRecordError(ValueError):
    """A file that cannot be read as what it should be; the message is one line with the file and the reason."""


def to_json(instance: Any) -> str:
    """Sorted keys, one space of indent, a newline at the end."""
    tree = json.loads(_adapter(type(instance)).dump_json(instance, exclude_defaults=True))
    return json.dumps(tree, sort_keys=True, indent=1) + "\n"


def read(kind: type[T], path: Path, version: int) -> T:
    """Read a file that ``to_json`` wrote.

    Args:
        kind: A dataclass with a field ``schema``.
        path: The file.
        version: The schema that this version of the code reads.

    Raises:
        DamagedRecordError: not JSON, another schema version, or a missing, unknown or mistyped key.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    try:
        tree = json.loads(content, parse_constant=_refuse_constant)
        if not isinstance(tree, dict):
            raise ValueError(f"a record is an object, not {_short(tree)}")
        found = tree.get("schema")
        if found != version or isinstance(found, bool):
            raise ValueError(f"schema is {found!r}, this version reads {version}{_advice(tree, version)}")
        return _validated(kind, content)
    except (ValueError, RecursionError) as error:
        raise DamagedRecordError(f"{path}: {_one_line(error)}") from error


def read_all(kind: type[T], paths: Iterable[Path], version: int) -> tuple[list[T], list[str]]:
    """Read each file that can be read, in order; return a line with name and reason for each of the others."""
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


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # made at first use, each in 50 ms


def _adapter(kind: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter  # takes a quarter of a second, and most commands do not need it

    return _ADAPTERS.get(kind) or _ADAPTERS.setdefault(kind, TypeAdapter(kind))


def _validated(kind: type[T], content: bytes) -> T:
    """An instance from JSON; an error is one line with the first key that does not fit and its value."""
    from pydantic import ValidationError

    try:
        instance: T = _adapter(kind).validate_json(content, strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"]).removeprefix(".")
        if first["type"] == "missing":
            raise ValueError(f"{where} is missing") from None
        raise ValueError(f"{where} is {_short(first['input'])}: {first['msg']}") from None
    return instance


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _advice(tree: dict[str, Any], version: int) -> str:
    """What to do about a record of another schema version."""
    found = tree.get("schema")
    if not isinstance(found, int) or isinstance(found, bool):
        return ""
    if found > version:
        return ": update the code to read it"
    return f": the code of its commit, {tree.get('git_commit')}, reads it; here its run counts as missing"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
