"""Records as rows. The columns are the fields of the record's dataclasses with dotted names (docs/records.md).

A field that is an object of its own has a column for each field of that (``seconds.total``); so have the settings of
the run (``optim.rho``) and the versions of packages (``packages.torch``). A list is one column of JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from llqr_sam.engine.records.provenance import PACKAGES
from llqr_sam.engine.records.record import CurvePoint, Record, RefreshPoint
from llqr_sam.engine.settings.flat import flat, setting_types

LABELS = ("dataset.name", "dataset.label_noise", "arch.name", "optim.name", "optim.divergence", "seed")
OWN_FILES = ("metrics.curve", "refreshes")  # a row each, in files of their own
NOT_EXPORTED = ("schema",)  # one number for all records that this version reads
Value = str | int | float | bool | None


@dataclass(frozen=True)
class Ended:
    """A run's record, and the folder of results/runs that it lies in."""

    record: Record
    folder: str


@dataclass(frozen=True)
class Table:
    """A file of rows: ``runs``, ``curves`` or ``refreshes``."""

    name: str
    columns: dict[str, type]  # name -> str, int, float or bool
    rows: list[list[Value]]


def tables(ended: Sequence[Ended]) -> list[Table]:
    """Everything that the records hold."""
    return [
        Table("runs", run_columns(), [list(_run(each).values()) for each in ended]),
        Table("curves", point_columns(CurvePoint), list(_points(ended, CurvePoint))),
        Table("refreshes", point_columns(RefreshPoint), list(_points(ended, RefreshPoint))),
    ]


def run_columns() -> dict[str, type]:
    """Column -> type, of a row a run."""
    columns: dict[str, type] = {"run_id": str, "folder": str, "best": float, "last": float, "unit": str}
    for name, kind in field_types(Record).items():
        if name == "config":
            columns |= {key: _cell_type(type_) for key, type_ in setting_types().items()}
        elif name == "packages":
            columns |= {f"packages.{package}": str for package in ("python", *PACKAGES)}
        elif name not in (*OWN_FILES, *NOT_EXPORTED):
            columns[name] = _cell_type(kind)
    return columns


def point_columns(kind: type) -> dict[str, type]:
    """Column -> type, of a row an evaluation or a refresh."""
    settings = setting_types()
    labels = {name: _cell_type(settings[name]) for name in LABELS}
    return {"run_id": str} | labels | {name: _cell_type(type_) for name, type_ in field_types(kind).items()}


def field_types(kind: type, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> annotation of each field of a dataclass, and of the dataclasses inside it in their place."""
    types: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for name in (field.name for field in fields(kind)):
        inner = next((option for option in _options(hints[name]) if is_dataclass(option)), None)
        if isinstance(inner, type):
            types |= field_types(inner, f"{prefix}{name}.")
        else:
            types[prefix + name] = hints[name]
    return types


def _run(ended: Ended) -> dict[str, Value]:
    record, metrics = ended.record, ended.record.metrics
    values: dict[str, Any] = {f"packages.{name}": version for name, version in record.packages.items()}
    values |= flat(record.config)
    values |= {"folder": ended.folder, "best": metrics.best.score, "last": metrics.last.score}
    values |= {"unit": metrics.last.unit}
    columns = run_columns().items()
    return {name: _cell(values[name] if name in values else _follow(record, name), kind) for name, kind in columns}


def _points(ended: Sequence[Ended], kind: type) -> Iterator[list[Value]]:
    columns = point_columns(kind).items()
    for each in ended:
        labels = {"run_id": each.record.run_id} | flat(each.record.config)
        for point in each.record.metrics.curve if kind is CurvePoint else each.record.refreshes:
            values = labels | vars(point)
            yield [_cell(values.get(name), type_) for name, type_ in columns]


def _follow(record: Record, name: str) -> Any:
    """``record.seconds.total`` for ``seconds.total``; ``None`` where a part is ``None`` or a setting is not in use."""
    value: Any = record
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def _cell(value: Any, kind: type) -> Value:
    if isinstance(value, list | tuple | dict):
        return json.dumps(value)
    return float(value) if kind is float and value is not None else value


def _cell_type(annotation: Any) -> type:
    """The type of a column: the annotation's own, float for ``int | float``, text for what is written as JSON."""
    options = {option for option in _options(annotation) if option is not NoneType}
    if options <= {int, float}:
        return float if float in options else int
    return bool if options == {bool} else str


def _options(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
