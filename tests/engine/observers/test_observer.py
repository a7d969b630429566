from __future__ import annotations

import inspect
from pathlib import Path

from llqr_sam.engine.observers.observer import Observer, RunInfo


def test_an_observer_need_not_do_anything() -> None:
    names = [name for name, _ in inspect.getmembers(Observer, inspect.isfunction)]
    assert set(names) == {"on_start", "on_step", "on_refresh", "on_epoch", "on_save", "on_end", "close"}
    observer = Observer()
    observer.on_step(1, 0.5)
    observer.close()


def test_steps_of_a_run() -> None:
    run = RunInfo(
        "id",
        {},
        None,
        "cpu",
        1,
        epochs=3,
        steps_per_epoch=20,
        first_step=7,
        curve=(),
        refreshes=(),
        folder=Path(),
        request_stop=int,
    )
    assert run.steps == 60
