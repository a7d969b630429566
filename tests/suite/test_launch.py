"""Launching, with real runs of two epochs on digits."""

from __future__ import annotations

from pathlib import Path

import pytest

from llqr_sam.engine.interruption import Interrupted
from llqr_sam.engine.record import read_record
from llqr_sam.suite import launch as launching
from llqr_sam.suite.compose import compose_config
from llqr_sam.suite.errors import UsageError
from llqr_sam.suite.grid import plan
from llqr_sam.suite.launch import launch
from llqr_sam.suite.status import Status


def run(words: list[str], folder: Path) -> int:
    """``python train.py <words>`` in ``folder``, quickly."""
    words = ["logger=none", "device=cpu", *words, f"paths.results={folder}/results", f"paths.workspace={folder}/work"]
    config = compose_config(words)
    return launch(Status.of(plan(config, words), folder / "results"), config)


def records(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*.json")}


def test_a_single_run_is_trained_once(tmp_path, capsys):
    words = ["optim=sgdm", "protocol.epochs=1"]
    assert run(words, tmp_path) == 0
    first = capsys.readouterr().out
    before = records(tmp_path)
    (path,) = before
    assert path.parent.name == "adhoc"
    assert path.stem == read_record(path).run_id
    assert "finished: best" in first
    assert str(path) in first
    assert run(words, tmp_path) == 0
    assert capsys.readouterr().out == first
    assert records(tmp_path) == before


def test_a_table_trains_what_is_missing(tmp_path, capsys):
    words = ["table=demo", "optim=sgdm", "protocol.epochs=1", "table.seeds=[0,1]"]
    assert run([*words, "seed=0"], tmp_path) == 0
    before = records(tmp_path)
    assert run(words, tmp_path) == 0
    after = records(tmp_path)
    assert len(after) == 2
    assert before.items() <= after.items()
    assert "2 runs: 1 finished, 1 missing" in capsys.readouterr().err


def test_a_failed_run_does_not_stop_the_next(tmp_path, capsys):
    """A preconditioner minibatch larger than the data is found by the engine, in LLQR's run alone."""
    methods = "table.methods=[{optim: llqr, geometry: ngd}, {optim: sgdm}]"
    words = ["table=demo", methods, "seed=0", "protocol.epochs=1", "protocol.methods.refresh_batch=100000"]
    assert run(words, tmp_path) == 1
    assert len(records(tmp_path)) == 1
    error = capsys.readouterr().err
    assert "failed: digits-small_cnn-llqr-ngd-s0" in error
    assert "1 of 2 runs failed" in error


def test_a_missing_data_set_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="prepare_data.py cifar100"):
        run(["dataset=cifar100", f"dataset.path={tmp_path}/none.npz"], tmp_path)


def test_an_absent_device_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="device=cuda:99"):
        run(["device=cuda:99"], tmp_path)


def test_an_interruption_stops_the_sweep(tmp_path, capsys, monkeypatch):
    def interrupted(*_: object) -> None:
        raise Interrupted(3, tmp_path, None)

    monkeypatch.setattr(launching, "execute", interrupted)
    assert run(["table=demo", "optim=sgdm"], tmp_path) == 130
    error = capsys.readouterr().err
    assert "the same command continues" in error
    assert "3 runs left" in error
