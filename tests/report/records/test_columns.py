"""The columns are the schema's, and docs/records.md documents each."""

from __future__ import annotations

import csv
import re
from dataclasses import fields, replace

import pytest

from llqr_sam.data.streams import Samples
from llqr_sam.engine.records.record import CurvePoint, Flatness, Record, RefreshPoint
from llqr_sam.engine.settings.run_settings import (
    ArchSettings,
    DatasetSettings,
    PrecisionSettings,
    ProtocolSettings,
)
from llqr_sam.methods.settings import MethodSettings
from llqr_sam.report.records.columns import Ended, point_columns, run_columns, tables
from llqr_sam.report.records.files import write_csv
from llqr_sam.repository import ROOT
from tests.suite.plans import plan_of
from tests.suite.records import record_of

TYPES = {str: ("text", "JSON list of float", "JSON list of int"), int: ("int",), float: ("float",), bool: ("bool",)}
FILES = {"runs": run_columns(), "curves": point_columns(CurvePoint), "refreshes": point_columns(RefreshPoint)}
PAGE = (ROOT / "docs" / "records.md").read_text()


def documented(name: str) -> dict[str, str]:
    """Column -> type, of a file's section in the document."""
    section = PAGE.partition(f"## Columns of {name}.csv\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| ([\w ]+) \|", section, re.MULTILINE))


@pytest.mark.parametrize("name", FILES)
def test_every_column_is_documented_with_its_type_and_no_other(name):
    columns, known = FILES[name], documented(name)
    own = {key: kind for key, kind in columns.items() if name == "runs" or key not in FILES["runs"] or key in known}
    assert set(known) == set(own)
    assert {key: kind for key, kind in own.items() if known[key] not in TYPES[kind]} == {}


@pytest.mark.parametrize("kind", [CurvePoint, RefreshPoint, Flatness])
def test_no_field_of_the_schema_is_left_out(kind):
    prefix = "sharpness." if kind is Flatness else ""
    columns = {CurvePoint: "curves", RefreshPoint: "refreshes", Flatness: "runs"}[kind]
    assert {prefix + field.name for field in fields(kind)} <= set(FILES[columns])


def test_every_field_of_a_record_has_a_column():
    """The curve and the refreshes have files; the settings have columns of their own."""
    beginnings = {column.partition(".")[0] for column in run_columns()}
    assert {field.name for field in fields(Record)} - beginnings == {"schema", "config", "refreshes"}
    for section, kind in {
        "dataset": DatasetSettings,
        "arch": ArchSettings,
        "optim": MethodSettings,
        "protocol": ProtocolSettings,
        "precision": PrecisionSettings,
    }.items():
        assert {f"{section}.{key}" for key in kind.key_types()} <= set(run_columns())


@pytest.fixture
def ended() -> list[Ended]:
    """A run with everything, and one that diverged before its first evaluation."""
    full, other = plan_of("optim=llqr_sam", "seed=3")[0], plan_of("optim=sgdm")[0]
    record = replace(
        record_of(full, [90.0, 95.5], hours=1.0, data="f" * 64, samples=Samples(1297, 500)),
        sharpness=Flatness([3.5, 1.0], 12.0, 0.25, 0.1, 64, 1024, 2.0),
        refreshes=[RefreshPoint(0, 1.0, 0.5, 0.1, 2, 0.3)],
        git_dirty=True,
        packages={"torch": "2.13.0"},
        weights_sha256="ab" * 32,
    )
    diverged = replace(record_of(other, [], status="diverged"), packages={"torch": "2.13.0"}, weights_sha256="cd" * 32)
    return [Ended(record, "demo"), Ended(diverged, "adhoc")]


def test_rows_have_the_records_values(ended, tmp_path):
    for table in tables(ended):
        write_csv(table, tmp_path)
    first, second = csv.DictReader((tmp_path / "runs.csv").open())
    record = ended[0].record
    expected = {
        "run_id": record.run_id,
        "folder": "demo",
        "best": "95.5",
        "unit": "%",
        "metrics.best.epoch": "2.0",
        "optim.rho": str(record.config["optim"]["rho"]),
        "protocol.milestones": "[]",
        "seed": "3",
        "git_dirty": "true",
        "packages.torch": "2.13.0",
        "samples.train": "1297",
        "sharpness.eigenvalues": "[3.5, 1.0]",
        "seconds.total": "3600.0",
        "error": "",
    }
    assert {key: first[key] for key in expected} == expected
    assert [second[key] for key in ("best", "optim.rho", "sharpness.trace", "samples.train")] == ["", "", "", ""]
    assert second["error"] == "the loss is not finite at step 7"
    points = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert [(point["run_id"], point["epoch"], point["top1"]) for point in points] == [
        (record.run_id, "1.0", "90.0"),
        (record.run_id, "2.0", "95.5"),
    ]
    (refresh,) = csv.DictReader((tmp_path / "refreshes.csv").open())
    assert (refresh["optim.divergence"], refresh["objective_after"], refresh["unreplayed"]) == ("ngd", "0.5", "")


def test_pandas_reads_the_types(ended, tmp_path):
    pandas = pytest.importorskip("pandas")
    is_kind = {
        str: pandas.api.types.is_string_dtype,
        int: pandas.api.types.is_integer_dtype,
        float: pandas.api.types.is_float_dtype,
        bool: pandas.api.types.is_bool_dtype,
    }
    for table in tables(ended):
        read = pandas.read_csv(write_csv(table, tmp_path))
        assert list(read.columns) == list(table.columns)
        for column, kind in table.columns.items():
            if read[column].notna().all() and len(read):
                assert is_kind[kind](read[column]), column


def test_parquet_has_the_types(ended, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    from llqr_sam.report.records.files import write_parquet

    for table in tables(ended):
        read = parquet.read_table(write_parquet(table, tmp_path))
        assert read.column_names == list(table.columns)
        assert [list(row.values()) for row in read.to_pylist()] == table.rows
