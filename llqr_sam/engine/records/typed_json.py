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
    """Read a file that ``to_json`` wrote.

    Args:
        kind: A dataclass with a field ``schema``.
        path: The file.
        version: The schema that this version of the code reads.

    Raises:
        DamagedRecordError: not JSON, another schema version, or a missing, unknown or mistyped key.
        OSError: the file cannot be read.
    """
    from pydantic_core import from_json

    content = path.read_bytes()
    try:
        tree = from_json(content, allow_inf_nan=False)
        found = tree.get("schema") if isinstance(tree, dict) else None
        if type(found) is not int or found != version:
            advice = ""
            if type(found) is int and found > version:
                advice = ": update the code to read it"
            elif type(found) is int:
                advice = f": the code of its commit, {tree.get('git_commit')}, reads it; here its run counts as missing"
            raise ValueError(f"schema is {found!r}, this version reads {version}{advice}")
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
        except DamagedRecordError as error:
            damaged.append(str(error))
        except OSError as error:
            damaged.append(f"{path}: {_reason(error)}")
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
