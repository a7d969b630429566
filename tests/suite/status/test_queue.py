from __future__ import annotations

import pytest

from llqr_sam.suite.run.run_folder import Queued
from llqr_sam.suite.status import queue
from llqr_sam.suite.status.queue import places
from tests.suite.slurm import commands

NOTES = {"a": Queued("7_0", "here"), "b": Queued("7_1", "here"), "c": Queued("9", None)}
HERE = "echo 'ClusterName             = here'"


@pytest.mark.parametrize(
    ("line", "words", "taken"),
    [
        ("7_0|PENDING|Priority", "queued: job 7_0 pending (Priority)", True),
        ("7_0|PENDING|BeginTime", "queued: job 7_0 pending (BeginTime)", True),
        ("7_0|PENDING|JobHeldUser", "held: job 7_0 (JobHeldUser)", True),
        ("7_0|PENDING|JobHeldAdmin", "held: job 7_0 (JobHeldAdmin)", True),
        ("7_0|RUNNING|None", "starting: job 7_0 is running and has not begun to train", True),
        ("7_0|SUSPENDED|None", "queued: job 7_0 suspended", True),
        ("7_1|PENDING|Priority", "no job: 7_0 is not in the queue any more", False),
        ("", "no job: 7_0 is not in the queue any more", False),
    ],
)
def test_a_job_in_words(line, words, taken, tmp_path, monkeypatch):
    commands(tmp_path, monkeypatch, squeue=f"echo '{line}'" if line else "", scontrol=HERE)
    place = places(NOTES)["a"]
    assert (str(place), place.is_taken) == (words, taken)


def test_squeue_is_asked_once_and_only_of_noted_jobs(tmp_path, monkeypatch):
    calls = commands(tmp_path, monkeypatch, squeue=f'echo "$@" >{tmp_path}/asked', scontrol=HERE)
    assert places({}) == {}
    assert not calls()
    assert list(places(NOTES)) == ["a", "b", "c"]
    assert calls().count("squeue") == 1
    assert "--jobs=7,9" in (tmp_path / "asked").read_text()


def test_a_single_job_that_is_gone_is_an_error_to_squeue_and_not_here(tmp_path, monkeypatch):
    said = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    commands(tmp_path, monkeypatch, squeue=said, scontrol=HERE)
    assert not places({"a": NOTES["a"]})["a"].is_taken


def test_where_squeue_says_nothing_the_run_stays_queued(tmp_path, monkeypatch):
    """Absent, broken, too slow, or another cluster's: the job may be there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert str(places(NOTES)["a"]) == "queued as job 7_0 (no squeue here)"
    assert places(NOTES)["a"].is_taken
    monkeypatch.undo()
    monkeypatch.setattr(queue, "PATIENCE", 0.2)
    for number, script in enumerate(("exit 1", "exec sleep 60")):
        with monkeypatch.context() as patch:
            (tmp_path / str(number)).mkdir()
            commands(tmp_path / str(number), patch, squeue=script, scontrol="")
            assert str(places(NOTES)["b"]) == "queued as job 7_1 (squeue does not answer)"


def test_another_clusters_queue_is_not_asked(tmp_path, monkeypatch):
    commands(tmp_path, monkeypatch, squeue="", scontrol="echo 'ClusterName = there'")
    found = places(NOTES)
    assert str(found["a"]) == "queued as job 7_0 (of cluster here)"
    assert not found["c"].is_taken
