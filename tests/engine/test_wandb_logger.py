from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llqr_sam.engine.interruption import Interrupted
from llqr_sam.engine.run import RunOptions, execute
from llqr_sam.engine.wandb_logger import WandbLogger


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)


def run_files(options: RunOptions) -> list[Path]:
    return sorted(options.workspace.rglob("run-*.wandb"))


def test_an_offline_run_writes_its_files(make_settings: Callable, make_options: Callable) -> None:
    settings, options = make_settings(), make_options()
    execute(settings, options, [WandbLogger()])
    (path,) = run_files(options)
    assert path.name == f"run-{settings.run_id}.wandb"
    keys = (b"epoch/top1", b"epoch/test_loss", b"best_top1", b"label_smoothing")
    deadline = time.monotonic() + 20  # W&B's own process writes the file, and a little after finish() has returned
    while not all(key in path.read_bytes() for key in keys):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_continued_run_keeps_its_id(
    make_settings: Callable, make_options: Callable, stop_at: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    settings, options = make_settings(), make_options()
    with pytest.raises(Interrupted):
        execute(settings, options, [WandbLogger(), stop_at(25)])
    execute(settings, options, [WandbLogger()])
    assert {path.name for path in run_files(options)} == {f"run-{settings.run_id}.wandb"}
    assert "switched off" not in caplog.text


class Broken:
    """A wandb that fails in one of its calls."""

    def __init__(self, failing: str) -> None:
        self.failing = failing
        self.summary = self

    def _call(self, name: str) -> Broken:
        if name == self.failing:
            raise RuntimeError(f"{name} failed\nin two lines")
        return self

    def Settings(self, **arguments: object) -> None: ...

    def init(self, **arguments: object) -> Broken:
        return self._call("init")

    def log(self, row: object, step: int) -> Broken:
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
