"""Dataclasses as JSON and back, every key and type checked by pydantic.

A number that is not finite is written as ``null``, and a field that equals its default is left out. When a file is
read, any other field must be there, and an unknown key is refused. pydantic is imported at first use: it takes a
quarter of a second, and most commands do not need it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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
    """Read what ``to_json`` wrote of a dataclass whose ``schema`` is ``version``; else raise DamagedRecordError."""
    from pydantic_core import from_json

    content = path.read_bytes()
    try:
        tree = from_json(content, allow_inf_nan=False)
        found = tree.get("schema") if isinstance(tree, dict) else None
        problem = f"schema is {found!r}, this version reads {version}"
        if type(found) is not int:
            raise ValueError(problem)
        if found > version:
            raise ValueError(f"{problem}: update the code to read it")
        if found < version:
            commit = tree.get("git_commit")
            raise ValueError(f"{problem}: the code of its commit, {commit}, reads it; here its run counts as missing")
        instance: T = _adapter(kind).validate_json(content, strict=True, extra="forbid")
    except ValueError as error:
        raise DamagedRecordError(f"{path}: {_reason(error)}") from error
    return instance


def read_all(kind: type[T], paths: Iterable[Path], version: int) -> tuple[list[T], list[str]]:
    """Read each file that can be read, in order; return a line with name and reason for each of the others."""
    instances: list[T] = []
    damaged: list[str] = []
    for path in paths:
        try:
            instances.append(read(kind, path, version))
        except (DamagedRecordError, OSError) as error:
            damaged.append(str(error) if isinstance(error, DamagedRecordError) else f"{path}: {_reason(error)}")
    return instances, damaged


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # each is made in 50 ms


def _adapter(kind: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return _ADAPTERS.get(kind) or _ADAPTERS.setdefault(kind, TypeAdapter(kind))


def _reason(error: Exception) -> str:
    """An error in one line: of pydantic's, the first key that does not fit and its value."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return " ".join(str(error).split()) or type(error).__name__
    first = error.errors(include_url=False)[0]
    where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"]).removeprefix(".")
    if first["type"] == "missing":
        return f"{where} is missing"
    value = json.dumps(first["input"])
    return f"{where} is {value if len(value) <= 40 else f'{value[:37]}...'}: {first['msg']}"
