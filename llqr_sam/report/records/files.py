"""Tables of records in files: CSV, and Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
from pathlib import Path

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.report.records.columns import Table, Value


def write_csv(table: Table, folder: Path) -> Path:
    """Write and return ``<folder>/<name>.csv``: UTF-8, a header, commas, numbers in full, nothing for ``None``."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([_text(value) for value in row] for row in table.rows)
    path = folder / f"{table.name}.csv"
    with replacing(path) as file:
        file.write(text.getvalue().encode())
    return path


def has_parquet() -> bool:
    """Whether ``write_parquet`` is possible here."""
    return importlib.util.find_spec("pyarrow") is not None


def write_parquet(table: Table, folder: Path) -> Path:
    """Write and return ``<folder>/<name>.parquet``, with the types of the columns."""
    arrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    kinds = {str: arrow.string(), int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in table.columns.items()])
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    path = folder / f"{table.name}.parquet"
    with replacing(path) as file:
        parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), file)
    return path


def _text(value: Value) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
