from __future__ import annotations

import os
import pickle
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from llqr_sam.data import registry as data
from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.loop.run import execute
from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.records import provenance
from llqr_sam.engine.records.checkpoint import CheckpointStore
from llqr_sam.engine.records.record import CurvePoint, read_record
from llqr_sam.engine.tasks import classification
from tests.engine.conftest import StopAt
from tests.processes import start
from tests.waiting import PATIENCE


def test_the_record_is_on_disk_and_the_checkpoints_are_gone(make_settings: Any, make_options: Any) -> None:
    settings, options = make_settings("llqr_sam"), make_options(checkpoint_minutes=0)
    record = execute(settings, options)
    assert read_record(options.record_path) == record
    assert (record.status, record.error, record.run_id) == ("finished", None, settings.run_id)
    assert record.config == settings.as_dict()
    assert [point.epoch for point in record.metrics.curve] == [1, 2]
    folder = options.workspace / settings.run_id
    assert {path.name for path in folder.iterdir()} == {"weights.pt", "weights.json"}
    state = torch.load(folder / "weights.pt", weights_only=True)
    assert provenance.weights_sha256(state) == record.weights_sha256
    assert record.parameters > 0
    assert record.samples == data.info("digits").whole


def test_weights_are_kept_only_when_asked(make_settings: Any, make_options: Any) -> None:
    settings, options = make_settings(), make_options(keep_weights=False)
    execute(settings, options)
    assert not list(options.workspace.rglob("*.pt"))


def test_an_interrupted_run_has_no_record_yet(make_settings: Any, make_options: Any) -> None:
    settings, options = make_settings(), make_options()
    with pytest.raises(Interrupted) as raised:
        execute(settings, options, [StopAt(5)])
    assert (raised.value.step, raised.value.signum) == (5, None)
    assert not options.record_path.exists()
    assert CheckpointStore(raised.value.checkpoint).load_latest() is not None


def test_a_continued_run_says_so(make_settings: Any, make_options: Any) -> None:
    class Starting(Observer):
        def on_start(self, run: RunInfo) -> None:
            self.run = run

    settings, options, starting = make_settings(), make_options(), Starting()
    for stop in (StopAt(5), StopAt(epoch=1)):
        with pytest.raises(Interrupted):
            execute(settings, options, [stop])
    record = execute(settings, options, [starting])
    assert starting.run.first_step == starting.run.steps_per_epoch == record.metrics.curve[0].step
    assert starting.run.curve == (record.metrics.curve[0],)
    assert record.resumes == 2


def test_nothing_is_touched_when_a_setting_is_impossible(make_settings: Any, make_options: Any) -> None:
    options = make_options()
    with pytest.raises(ValueError, match="rho"):
        execute(make_settings("sam", {"rho": -1.0}), options)
    with pytest.raises(ValueError, match="device=tpu"):
        execute(make_settings(), make_options(device="tpu"))
    assert not options.workspace.exists()


def test_runs_in_another_thread(make_settings: Any, make_options: Any) -> None:
    """Signal handlers cannot be set there; training works all the same."""
    records = []
    thread = threading.Thread(target=lambda: records.append(execute(make_settings(), make_options())))
    thread.start()
    thread.join()
    assert records[0].status == "finished"


def test_a_signal_after_the_last_step_is_passed_on(make_settings: Any, make_options: Any) -> None:
    """The run is over: it gets its record, and whoever would start the next one gets the Ctrl-C."""

    class Late(Observer):
        def on_epoch(self, point: CurvePoint) -> None:
            if point.epoch == 2:
                os.kill(os.getpid(), signal.SIGINT)

    options = make_options()
    with pytest.raises(KeyboardInterrupt):
        execute(make_settings(), options, [Late()])
    assert read_record(options.record_path).status == "finished"


SCRIPT = """
import pickle, sys
from pathlib import Path
from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.observers.observer import Observer
from llqr_sam.engine.loop.run import execute

class Telling(Observer):
    def on_step(self, step, loss):
        if step == 5:
            print("training", flush=True)

settings, options = pickle.loads(Path(sys.argv[1]).read_bytes())
try:
    execute(settings, options, [Telling()])
except Interrupted as interrupted:
    sys.exit(f"{interrupted}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGUSR2])
def test_ctrl_c_saves_and_exits(signum: signal.Signals, make_settings: Any, make_options: Any, tmp_path: Path) -> None:
    """A real process gets a real signal at some step, and leaves a checkpoint of it."""
    settings, options = make_settings("llqr_sam", epochs=100_000), make_options()
    (tmp_path / "run.pickle").write_bytes(pickle.dumps((settings, options)))
    process = start("-c", SCRIPT, str(tmp_path / "run.pickle"))
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n"
    process.send_signal(signum)
    _, errors = process.communicate(timeout=PATIENCE)
    found = CheckpointStore(options.workspace / settings.run_id / "checkpoints").load_latest()
    assert found is not None
    assert found[0] >= 5
    assert process.returncode == 1
    assert errors.startswith(f"stopped by {signum.name} after step {found[0]};")
    assert errors.count("\n") == 1


class Fill(Observer):
    """Has PyTorch fill all memory that a deterministic run takes, with NaN."""

    def on_start(self, run: RunInfo) -> None:
        torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.parametrize(
    "method", ["llqr_sam", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llqr", "llqr_f_sam"))]
)
def test_no_memory_is_read_before_it_is_written(method: str, make_settings: Any, make_options: Any) -> None:
    """So that none has to be filled (devices/device.py, arithmetic)."""
    settings = make_settings(method, deterministic=True)
    plain = execute(settings, make_options("plain"))
    filled = execute(settings, make_options("filled"), [Fill()])
    assert filled.status == "finished"
    assert filled.weights_sha256 == plain.weights_sha256


def test_the_commit_may_be_given(make_settings: Any, make_options: Any) -> None:
    """A queued run is computed with the code of its launch, not with the checkout of today."""
    record = execute(make_settings(epochs=1), make_options(git=("abc", True)))
    assert (record.git_commit, record.git_dirty) == ("abc", True)


def test_the_commit_may_be_told_by_the_environment(
    make_settings: Any, make_options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no checkout; what is no commit stops the run before it trains."""
    monkeypatch.setattr(provenance, "_git", lambda folder, *arguments: None)
    monkeypatch.setenv("LLQR_SAM_COMMIT", "a" * 40 + "-dirty")
    record = execute(make_settings(epochs=1), make_options("told"))
    assert (record.git_commit, record.git_dirty) == ("a" * 40, True)
    monkeypatch.setenv("LLQR_SAM_COMMIT", "main")
    with pytest.raises(ValueError, match="LLQR_SAM_COMMIT='main'"):
        execute(make_settings(epochs=1), make_options("refused"))
    assert not make_options("refused").record_path.exists()


def test_a_signal_while_data_are_loaded_stops_after_the_first_step(
    make_settings: Any, make_options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = classification.load

    def interrupted_load(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR2)
        return load(*arguments, **options)

    monkeypatch.setattr(classification, "load", interrupted_load)
    with pytest.raises(Interrupted) as raised:
        execute(make_settings(), make_options())
    assert (raised.value.step, raised.value.signum) == (1, signal.SIGUSR2)
