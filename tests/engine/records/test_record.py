from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llqr_sam.data.streams import Samples
from llqr_sam.engine.records.record import (
    SCHEMA_VERSION,
    Accuracy,
    CurvePoint,
    Metrics,
    Record,
    RefreshPoint,
    Scoring,
    Seconds,
    read_record,
    read_records,
)
from llqr_sam.engine.records.typed_json import DamagedRecordError, to_json


def point(epoch: int, top1: float, **changes: Any) -> CurvePoint:
    made = CurvePoint(epoch, 20 * epoch, lr=0.05, train_loss=1.5, test_loss=1.25, top1=top1, seconds=0.5 * epoch)
    return dataclasses.replace(made, **changes)


@pytest.fixture
def record() -> Record:
    return Record(
        schema=SCHEMA_VERSION,
        run_id="digits-small_cnn-sgdm-s0-01234567",
        status="finished",
        error=None,
        config={"seed": 0, "optim": {"name": "sgdm", "lr": 0.05}, "protocol": {"milestones": [1, 2]}},
        git_commit=None,
        git_dirty=False,
        packages={"python": "3.11.7", "torch": "2.13.0"},
        device="a CPU",
        parameters=24058,
        metrics=Metrics.from_curve([point(1, 50.0), point(2, 75.0), point(3, 75.0), point(4, 60.0)]),
        refreshes=[RefreshPoint(0, -0.5, -0.75, 0.125, 0, 0.25)],
        weights_sha256="00ff",
        seconds=Seconds(1.0, 2.0, 3.0, 4.0, 5.0, 16.0),
        started="2026-11-21T10:00:00+00:00",
        resumes=2,
    )


def test_best_is_the_first_epoch_that_reaches_the_maximum(record: Record) -> None:
    assert record.metrics.best == Accuracy(75.0, 2)
    assert record.metrics.last == Accuracy(60.0, 4)
    assert Metrics.from_curve([]).best == Accuracy(None, 0)


def test_translations_are_compared_by_bleu_where_it_was_scored() -> None:
    """Epoch 3 has the better token accuracy, epoch 2 the better BLEU, epoch 1 and 4 none."""
    curve = [
        point(epoch, top1, perplexity=9.0, token_error=100 - top1, bleu=bleu)
        for epoch, top1, bleu in ((1, 50.0, None), (2, 55.0, 30.0), (3, 60.0, 29.0), (4, 70.0, None))
    ]
    scoring = Scoring("nrefs:1", 0.4, 0.5)
    metrics = Metrics.from_curve(curve, scoring)
    assert (metrics.best, metrics.last) == (Accuracy(55.0, 2, bleu=30.0), Accuracy(60.0, 3, bleu=29.0))
    assert (metrics.best.score, metrics.best.words, metrics.scoring) == (30.0, "30.00 BLEU", scoring)
    assert Metrics.from_curve(curve[:1]).best == Accuracy(None, 0)


def test_a_translation_is_read_as_it_was_written(record: Record, tmp_path: Path) -> None:
    curve = [point(1, 50.0, perplexity=9.0, token_error=50.0, bleu=30.0, sacrebleu=31.0)]
    metrics = Metrics.from_curve(curve, Scoring("nrefs:1", 0.4, 0.5))
    written = dataclasses.replace(record, metrics=metrics)
    written.write(tmp_path / "a.json")
    assert read_record(tmp_path / "a.json") == written


def test_reads_what_it_wrote(record: Record, tmp_path: Path) -> None:
    record.write(tmp_path / "a.json")
    assert read_record(tmp_path / "a.json") == record


def test_samples_are_read_back_and_older_records_have_none(record: Record, tmp_path: Path) -> None:
    assert "samples" not in json.loads(to_json(record))
    written = dataclasses.replace(record, samples=Samples(20_000, 10_000))
    written.write(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["samples"] == {"train": 20_000, "test": 10_000}
    assert read_record(tmp_path / "a.json") == written


def test_a_record_is_never_written_over(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{")  # damaged, but somebody's
    assert record.write(path) == tmp_path / "a.2.json"
    again = dataclasses.replace(record, resumes=9)
    assert again.write(path) == tmp_path / "a.3.json"
    assert path.read_text() == "{"
    assert (read_record(tmp_path / "a.2.json"), read_record(tmp_path / "a.3.json")) == (record, again)
    with pytest.raises(OSError, match="exists|directory"):
        record.write(path / "below" / "a.json")


def words(text: str) -> set[str]:
    return set(text.split())


def test_keys_are_those_of_the_schema(record: Record) -> None:
    tree = json.loads(to_json(record))
    expected = "schema run_id status error config git_commit git_dirty packages device parameters metrics refreshes "
    assert set(tree) == words(expected + "weights_sha256 seconds started resumes")
    assert set(tree["metrics"]) == {"best", "last", "curve", "best_of"}
    assert set(tree["metrics"]["best"]) == {"top1", "epoch"}
    assert set(tree["metrics"]["curve"][0]) == words("epoch step lr train_loss test_loss top1 seconds")
    refresh = "step objective_before objective_after relative_change fallbacks seconds"
    assert set(tree["refreshes"][0]) == words(refresh)
    assert set(tree["seconds"]) == words("data first_pass second_pass refresh evaluation total")


def test_equal_records_give_equal_bytes(record: Record) -> None:
    other = dataclasses.replace(record, config=dict(reversed(record.config.items())))
    assert to_json(other) == to_json(record)


def test_not_finite_is_null(record: Record, tmp_path: Path) -> None:
    metrics = Metrics.from_curve([point(1, 10.0, train_loss=math.nan, test_loss=math.inf)])
    dataclasses.replace(record, metrics=metrics, config={"x": -math.inf}).write(tmp_path / "a.json")
    read = read_record(tmp_path / "a.json")
    assert read.metrics.curve[0].train_loss is None
    assert read.metrics.curve[0].test_loss is None
    assert read.config == {"x": None}


def change(*path: str | int, to: Any) -> Callable[[Any], None]:
    def apply(tree: Any) -> None:
        for key in path[:-1]:
            tree = tree[key]
        tree[path[-1]] = to

    return apply


def drop(*path: str) -> Callable[[Any], None]:
    def apply(tree: Any) -> None:
        for key in path[:-1]:
            tree = tree[key]
        del tree[path[-1]]

    return apply


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (change("schema", to=2), "schema is 2, this version reads 1: update the code"),
        (change("schema", to=0), "schema is 0, this version reads 1: the code of its commit, None, reads it"),
        (change("schema", to=True), "schema is True"),
        (drop("schema"), "schema is None"),
        (drop("weights_sha256"), "weights_sha256 is missing"),
        (drop("metrics", "best", "epoch"), "metrics.best.epoch is missing"),
        (change("extra", to=1), "extra is 1: Unexpected"),
        (change("seconds", "total", to="long"), 'seconds.total is "long": '),
        (change("git_dirty", to=0), "git_dirty is 0: "),
        (change("parameters", to=1.5), "parameters is 1.5: "),
        (change("resumes", to=True), "resumes is true: "),
        (change("status", to="running"), "status is \"running\": Input should be 'finished' or 'diverged'"),
        (change("metrics", "curve", 1, "top1", to=None), "metrics.curve[1].top1 is null: "),
        (change("metrics", to=[]), "metrics is []: "),
        (change("packages", "torch", to=2), "packages.torch is 2: "),
        (change("error", to=3), "error is 3: "),
    ],
)
def test_refuses_what_does_not_fit(record: Record, tmp_path: Path, damage: Callable[[Any], None], reason: str) -> None:
    tree = json.loads(to_json(record))
    damage(tree)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(DamagedRecordError) as raised:
        read_record(path)
    assert str(raised.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": NaN}', b"[" * 100_000, b'{"schema": 1}']
)
def test_refuses_what_is_not_a_record(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DamagedRecordError, match=r"a\.json: "):
        read_record(path)


def test_every_truncation_is_refused(record: Record, tmp_path: Path) -> None:
    whole = to_json(record).encode()
    path = tmp_path / "a.json"
    for length in range(0, len(whole) - 2, 37):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedRecordError):
            read_record(path)


def test_reads_a_folder_and_names_what_is_damaged(record: Record, tmp_path: Path) -> None:
    for name in ("b", "a"):
        dataclasses.replace(record, run_id=name).write(tmp_path / "table_02" / f"{name}.json")
    dataclasses.replace(record, run_id="c").write(tmp_path / "c.json")
    (tmp_path / "table_02" / "half.json").write_text(to_json(record)[:100])
    (tmp_path / "table_02" / "half.json.17.tmp").write_text("left behind")
    records, damaged = read_records(tmp_path)
    assert [read.run_id for read in records] == ["c", "a", "b"]
    (line,) = damaged
    assert line.startswith(f"{tmp_path / 'table_02' / 'half.json'}: ")
    assert not line.endswith(": ")


def test_no_folder_holds_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "absent") == ([], [])
