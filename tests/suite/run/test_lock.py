"""One process at a time trains a run, whoever else is there, whatever has died."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from llqr_sam.engine.observers.observer import RunInfo
from llqr_sam.suite.run.lock import LeftAlone, Owner, RunLock, holder
from tests.processes import start
from tests.waiting import PATIENCE, wait_for

FREE = 2**22 + 1  # a process number higher than any


def write_lock(folder: Path, *, age: float = 0.0, **changes: object) -> Owner:
    """The lock of an owner on another machine, last heard of ``age`` seconds ago."""
    owner = dataclasses.replace(Owner.this_process(), **{"host": "elsewhere", **changes})  # type: ignore[arg-type]
    folder.mkdir(exist_ok=True)
    path = folder / "lock.json"
    path.write_text(json.dumps(dataclasses.asdict(owner)))
    then = time.time() - age
    os.utime(path, (then, then))
    return owner


def run_info(folder: Path, request_stop: Callable[[], None]) -> RunInfo:
    return RunInfo("run", {}, None, "a CPU", 1, 3, 10, 0, (), (), folder, request_stop)


def test_one_at_a_time_and_nothing_is_left(tmp_path):
    with RunLock(tmp_path / "run", 10) as lock:
        assert holder(tmp_path / "run", 10) == lock.owner
        with pytest.raises(LeftAlone, match=f"process {os.getpid()}"), RunLock(tmp_path / "run", 10):
            pass
        assert holder(tmp_path / "run", 10) == lock.owner
    assert holder(tmp_path / "run", 10) is None
    assert not list((tmp_path / "run").iterdir())
    with RunLock(tmp_path / "run", 10):
        pass


def test_a_lock_with_a_heartbeat_is_respected_and_a_stale_one_taken_over(tmp_path):
    write_lock(tmp_path, age=50)
    with pytest.raises(LeftAlone, match="elsewhere"), RunLock(tmp_path, stale_minutes=1):
        pass
    assert holder(tmp_path, 1) is not None
    write_lock(tmp_path, age=70)
    assert holder(tmp_path, 1) is None
    with RunLock(tmp_path, stale_minutes=1) as lock:
        assert holder(tmp_path, 1) == lock.owner
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_dead_process_here_is_taken_over_at_once(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_lock(tmp_path, host=Owner.this_process().host, pid=gone.pid)
    with RunLock(tmp_path, 10) as lock:
        assert holder(tmp_path, 10) == lock.owner


CONTAINER = """
import sys
from pathlib import Path
from llqr_sam.suite.run.lock import RunLock
RunLock(Path(sys.argv[1]), 10).__enter__()
"""


def test_a_process_number_of_another_machine_says_nothing(tmp_path):
    """Of one host name, but with process numbers of its own: a container."""
    contain = ["unshare", "--pid", "--fork"]
    if subprocess.run([*contain, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a process namespace cannot be made here")
    subprocess.run([*contain, sys.executable, "-c", CONTAINER, str(tmp_path)], check=True)
    owner = holder(tmp_path, 10)
    assert owner is not None
    assert owner.host == Owner.this_process().host
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(owner, pid=FREE))))
    with pytest.raises(LeftAlone), RunLock(tmp_path, 10):
        pass
    os.utime(path, (0, 0))
    with RunLock(tmp_path, 10):
        pass


def test_a_folder_that_goes_while_the_lock_is_taken_is_made_again(tmp_path):
    """Whoever had the run has just ended, and removes the folder between our mkdir and our lock."""
    folder, over = tmp_path / "run", threading.Event()

    def remove() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                folder.rmdir()

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for _ in range(50):
            with RunLock(folder, 10) as lock:
                assert holder(folder, 10) == lock.owner
    finally:
        over.set()
        remover.join()


def test_a_requeued_job_takes_over_from_its_former_self(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    write_lock(tmp_path)
    with pytest.raises(LeftAlone, match="job slurm:7"), RunLock(tmp_path, 10):
        pass  # the same job twice at once, in two shells of an allocation
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with RunLock(tmp_path, 10):
        pass
    write_lock(tmp_path, job="slurm:8")
    with pytest.raises(LeftAlone), RunLock(tmp_path, 10):
        pass


def test_a_dead_owner_is_succeeded_once(tmp_path):
    """Two judge the same lock stale; the slower one finds the successor of the faster."""
    write_lock(tmp_path, age=100)
    first, second = RunLock(tmp_path, 1), RunLock(tmp_path, 1)
    with first:
        with pytest.raises(LeftAlone), second:
            pass
        assert holder(tmp_path, 1) == first.owner
    assert not list(tmp_path.iterdir())


def test_a_successor_that_dies_is_succeeded_too(tmp_path):
    dead = write_lock(tmp_path, age=100)
    second = write_lock(tmp_path / "aside", age=90)
    (tmp_path / "aside" / "lock.json").rename(tmp_path / f"lock.{dead.token}.json")
    (tmp_path / "aside").rmdir()
    with RunLock(tmp_path, 1) as lock:
        assert (tmp_path / f"lock.{second.token}.json").exists()
        assert holder(tmp_path, 1) == lock.owner
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_not_whole_counts_until_it_is_stale(tmp_path):
    """Being written, or left behind by a full disk."""
    path = tmp_path / "lock.json"
    path.touch()
    with pytest.raises(LeftAlone), RunLock(tmp_path, 1):
        pass
    os.utime(path, (0, 0))
    with RunLock(tmp_path, 1) as lock:
        assert holder(tmp_path, 1) == lock.owner
    assert not list(tmp_path.iterdir())


def test_the_heart_beats(tmp_path):
    with RunLock(tmp_path, stale_minutes=0.02):  # a beat every 0.3 s
        (path,) = tmp_path.iterdir()
        before = path.stat().st_mtime_ns
        wait_for(lambda: path.stat().st_mtime_ns > before)


def test_a_lock_that_was_lost_stops_the_run_and_is_not_released(tmp_path):
    """A suspended process wakes up and finds that another has taken over."""
    asked = threading.Event()
    with RunLock(tmp_path, stale_minutes=0.02) as lock:
        lock.on_start(run_info(tmp_path, asked.set))
        other = write_lock(tmp_path)
        assert asked.wait(PATIENCE)
    assert holder(tmp_path, 10) == other


@pytest.mark.parametrize("how", ["the folder is removed", "another takes over"])
def test_how_a_lock_was_lost_is_said(how, tmp_path, caplog):
    """Where nobody has the run it may still be saved."""
    asked, folder = threading.Event(), tmp_path / "run"
    with RunLock(folder, stale_minutes=0.02) as lock:
        lock.on_start(run_info(folder, asked.set))
        if how == "the folder is removed":
            shutil.rmtree(folder)
        else:
            other = write_lock(folder)
        assert asked.wait(PATIENCE)
        if how == "the folder is removed":
            assert f"run: {folder}/lock.json has been removed: it stops here" in caplog.text
            lock.on_save()
        else:
            assert f"run: {other} has taken the run over: it stops here" in caplog.text
            with pytest.raises(LeftAlone, match="taken over by elsewhere"):
                lock.on_save()


RACER = """
import sys, time
from pathlib import Path
from llqr_sam.suite.run.lock import LeftAlone, RunLock
folder = Path(sys.argv[1])
(folder / f"{sys.argv[2]}.ready").touch()
while not (folder / "start").exists():
    time.sleep(0.01)
start = time.time()
for turn in range(20):
    time.sleep(max(0, start + 0.1 * turn - time.time()))
    try:
        with RunLock(folder / str(turn), 1):
            (folder / str(turn) / f"{time.time_ns()}.winner").touch()
            time.sleep(0.15)
    except LeftAlone:
        pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("stale", [False, True])
def test_of_processes_that_race_one_wins(tmp_path, stale):
    for turn in range(20 * stale):
        write_lock(tmp_path / str(turn), age=100)
    racers = [start("-c", RACER, str(tmp_path), str(number)) for number in range(4)]
    wait_for(lambda: len(list(tmp_path.glob("*.ready"))) == 4)
    (tmp_path / "start").touch()
    for racer in racers:
        assert racer.wait(PATIENCE) == 0, racer.stderr and racer.stderr.read()
    # Whoever comes after the winner is through may have it once more: the winners of a turn never overlap.
    for turn in range(20):
        times = sorted(int(path.stem) for path in (tmp_path / str(turn)).glob("*.winner"))
        assert times
        assert all(later - earlier >= 0.15e9 for earlier, later in pairwise(times))
