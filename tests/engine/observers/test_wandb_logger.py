from __future__ import annotations

import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wandb")

from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.loop.run import execute
from llqr_sam.engine.observers.wandb_logger import URL_FILE, WandbLogger, url_of
from llqr_sam.engine.records.record import Record, read_record
from llqr_sam.engine.settings.run_settings import RunOptions
from tests.waiting import PATIENCE, wait_for

from . import wandb_files, wandb_server


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)


def closed_files(options: RunOptions) -> list[Path]:
    """The runs' files in the order they were begun; W&B's own process ends one a little after finish() has returned."""
    paths = sorted(options.workspace.rglob("run-*.wandb"), key=lambda path: path.parent.name)
    wait_for(lambda: all(wandb_files.is_closed(path) for path in paths))
    return paths


def rows_of(record: Record) -> list[dict[str, Any]]:
    """What W&B is to show of a run, less times: its epochs and refreshes in the order they happened."""
    epochs = [{f"epoch/{name}": value for name, value in asdict(point).items()} for point in record.metrics.curve]
    refreshes = [{f"refresh/{name}": value for name, value in asdict(point).items()} for point in record.refreshes]
    rows = [row | {"step": row.get("epoch/step", row.get("refresh/step"))} for row in epochs + refreshes]
    rows.sort(key=lambda row: (row["step"], "refresh/step" in row))
    return [timeless(row) for row in rows]


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    own = ("_step", "_timestamp", "_runtime", "epoch/step", "refresh/step", "epoch/seconds", "refresh/seconds")
    return {name: value for name, value in row.items() if name not in own}


def test_an_offline_run_writes_its_files(make_settings: Callable, make_options: Callable) -> None:
    settings, options = make_settings("llqr_sam"), make_options(git=("abc", False))
    watcher = WandbLogger("project", group="cell", job_type="llqr_sam-ngd", tags=["demo", "digits"])
    record = execute(settings, options, [watcher])
    (path,) = closed_files(options)
    assert path.name == f"run-{settings.run_id}.wandb"
    assert [timeless(row) for row in wandb_files.history(path)] == rows_of(record)
    run = wandb_files.run_of(path)
    assert (run.run_id, run.project, run.run_group, run.job_type) == (
        settings.run_id,
        "project",
        "cell",
        "llqr_sam-ngd",
    )
    assert list(run.tags) == ["demo", "digits"]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["git_commit"] == "abc"
    assert {name: config[name] for name in settings.as_dict()} == settings.as_dict()
    assert b"best_top1" in path.read_bytes()


@pytest.mark.slow
def test_a_continued_run_is_one_curve(
    make_settings: Callable, make_options: Callable, stop_at: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    """Preempted in mid-epoch, twice: one W&B run, each attempt's files whole, the last one's those of the record."""
    settings, options = make_settings("llqr_sam"), make_options()
    for step in (10, 25):
        with pytest.raises(Interrupted):
            execute(settings, options, [WandbLogger(), stop_at(step)])
        time.sleep(1.1)  # W&B's folders are named to the second
    record = execute(settings, options, [WandbLogger()])
    paths = closed_files(options)
    assert {path.name for path in paths} == {f"run-{settings.run_id}.wandb"}
    expected = rows_of(record)
    found = [[timeless(row) for row in wandb_files.history(path)] for path in paths]
    assert found == [expected[: len(found[0])], expected[: len(found[1])], expected]
    assert 0 < len(found[0]) < len(found[1]) < len(expected)
    assert "switched off" not in caplog.text


def test_online_no_row_is_sent_twice(
    make_settings: Callable, make_options: Callable, stop_at: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has had four rows, some of them after the last checkpoint, gets the others."""
    settings, options = make_settings("llqr_sam"), make_options()
    with pytest.raises(Interrupted):
        execute(settings, options, [stop_at(16)])
    server = Broken("")
    server.starting_step = 4
    monkeypatch.setitem(sys.modules, "wandb", server)
    record = execute(settings, options, [WandbLogger(mode="online")])
    assert [timeless(row) for row in server.rows] == rows_of(record)[4:]


class Broken:
    """A wandb that fails in one of its calls, and keeps the rows it gets."""

    url = "https://wandb.ai/somebody/project/runs/run"

    def __init__(self, failing: str) -> None:
        self.failing = failing
        self.summary = self
        self.starting_step = 0
        self.rows: list[dict[str, Any]] = []

    def _call(self, name: str) -> Broken:
        if name == self.failing:
            raise RuntimeError(f"{name} failed\nin two lines")
        return self

    def Settings(self, **arguments: object) -> None: ...

    def init(self, **arguments: object) -> Broken:
        return self._call("init")

    def define_metric(self, *_: object, **arguments: object) -> None: ...

    def log(self, row: dict[str, Any]) -> Broken:
        self.rows.append(row)
        return self._call("log")

    def update(self, summary: object) -> Broken:
        return self._call("update")

    def finish(self, **arguments: object) -> Broken:
        return self._call("finish")


@pytest.mark.parametrize("failing", ["init", "log", "update", "finish"])
def test_a_failure_is_one_warning_and_never_stops_the_run(
    failing: str,
    make_settings: Callable,
    make_options: Callable,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Broken(failing))
    with caplog.at_level(logging.WARNING):
        record = execute(make_settings(), make_options(), [WandbLogger()])
    assert record.status == "finished"
    messages = [entry.getMessage() for entry in caplog.records if "Weights & Biases" in entry.getMessage()]
    assert messages == [f"Weights & Biases failed and is switched off for this run: {failing} failed in two lines"]


def test_wandb_need_not_be_installed(
    make_settings: Callable,
    make_options: Callable,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert execute(make_settings(), make_options(), [WandbLogger()]).status == "finished"
    assert "switched off" in caplog.text


def test_an_online_run_leaves_its_url_and_an_offline_run_none(
    make_settings: Callable, make_options: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Broken(""))
    settings, online, offline = make_settings(), make_options("online"), make_options("offline")
    execute(settings, online, [WandbLogger(mode="online")])
    folder = online.workspace / settings.run_id
    assert (folder / "wandb_url").read_text() == f"{Broken.url}\n"
    assert url_of(folder) == Broken.url
    execute(settings, offline, [WandbLogger()])
    assert url_of(offline.workspace / settings.run_id) is None


def test_a_url_that_cannot_be_written_is_a_warning_and_the_logging_goes_on(
    make_settings: Callable,
    make_options: Callable,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings, options, server = make_settings(), make_options(), Broken("")
    (options.workspace / settings.run_id / URL_FILE).mkdir(parents=True)  # no file can take its place
    monkeypatch.setitem(sys.modules, "wandb", server)
    record = execute(settings, options, [WandbLogger(mode="online")])
    assert record.status == "finished"
    assert [timeless(row) for row in server.rows] == rows_of(record)
    messages = [entry.getMessage() for entry in caplog.records if "Weights & Biases" in entry.getMessage()]
    assert [message.partition(": ")[0] for message in messages] == ["The run's URL in Weights & Biases cannot be noted"]


@pytest.mark.parametrize(
    ("content", "url"),
    [
        (b"https://wandb.ai/me/project/runs/id\n", "https://wandb.ai/me/project/runs/id"),
        (b"http://127.0.0.1:8080/me/project/runs/id", "http://127.0.0.1:8080/me/project/runs/id"),
        (b"", None),
        (b"javascript:alert(1)\n", None),
        (b"see https://wandb.ai\n", None),
        (b"https://wandb.ai\nhttps://wandb.ai\n", None),
        (b"https://wandb.ai/\xff", None),
        (None, None),
    ],
)
def test_what_is_no_address_is_not_read_as_one(content: bytes | None, url: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / URL_FILE).write_bytes(content)
    assert url_of(tmp_path) == url


SCRIPT = """
import pickle, sys
from pathlib import Path
from llqr_sam.engine.observers import wandb_logger
from llqr_sam.engine.loop.run import execute

wandb_logger.PATIENCE = 3
settings, options = pickle.loads(Path(sys.argv[1]).read_bytes())
execute(settings, options, [wandb_logger.WandbLogger(mode="online")])
"""


# A process that used W&B itself, and leaves its service to the process that it starts.
PARENT = """
import subprocess, sys, wandb
wandb.init(mode="offline", dir=sys.argv[1], settings=wandb.Settings(silent=True))
raise SystemExit(subprocess.run([sys.executable, *sys.argv[2:]]).returncode)
"""


@pytest.mark.slow
def test_the_url_is_that_of_the_real_client(make_settings: Callable, make_options: Callable, tmp_path: Path) -> None:
    settings, options = make_settings(), make_options()
    (tmp_path / "run.pickle").write_bytes(pickle.dumps((settings, options)))
    without_service = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    with wandb_server.running() as address:
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "run.pickle")],
            env=without_service | {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40},
            check=True,
            timeout=PATIENCE,
        )
    expected = f"{address}/{wandb_server.ENTITY}/llqr-sam/runs/{settings.run_id}"
    assert url_of(options.workspace / settings.run_id) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("listens", "child"), [(True, False), (False, False), (False, True)], ids=["hung", "refused", "service_of_a_parent"]
)
def test_a_server_that_does_not_answer_costs_a_warning_and_leaves_files(
    listens: bool, child: bool, make_settings: Callable, make_options: Callable, tmp_path: Path
) -> None:
    """W&B's own client against a port that takes connections and says nothing, and against one that is closed."""
    parent = ["-c", PARENT, str(tmp_path)] if child else []
    settings, options = make_settings(), make_options()
    (tmp_path / "run.pickle").write_bytes(pickle.dumps((settings, options)))
    without_service = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = "http://{}:{}".format(*server.getsockname())
        server.listen() if listens else server.close()
        done = subprocess.run(
            [sys.executable, *parent, "-c", SCRIPT, str(tmp_path / "run.pickle")],
            env=without_service | {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40},
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
    record = read_record(options.record_path)
    assert done.stderr.count("Weights & Biases") == 1
    assert done.stderr.count("this run is logged to files, which scripts/wandb_sync.py uploads") == 1
    (path,) = options.workspace.glob("*/wandb/offline-run-*/run-*.wandb")
    wait_for(lambda: wandb_files.is_closed(path))
    assert [timeless(row) for row in wandb_files.history(path)] == rows_of(record)
