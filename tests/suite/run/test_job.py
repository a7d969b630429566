from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llqr_sam.suite.config.command_line import groups
from llqr_sam.suite.run.attempt import Job
from llqr_sam.suite.run.run_folder import note_failure
from tests.suite.jobs import jobs_of
from tests.suite.records import write_record


@pytest.mark.parametrize("optim", groups()["optim"])
def test_a_job_survives_json(optim, tmp_path):
    """Every method: a setting that came back as another type would change the run's identity."""
    (job,) = jobs_of(tmp_path, f"optim={optim}", "logger=wandb")
    text = job.to_json()
    assert "\n" not in text
    assert Job.from_json(text) == job
    assert job.label.endswith(" s0")


def test_its_paths_are_absolute(tmp_path):
    (job,) = jobs_of(tmp_path, "dataset=cifar10", "dataset.path=mine.npz")
    options = Job.from_json(job.to_json()).options
    assert options.data_path == tmp_path / "mine.npz"
    assert options.data_root == tmp_path / "data"
    assert options.record_path == tmp_path / "results" / "runs" / "adhoc" / f"{job.run_id}.json"
    assert job.folder.is_absolute()


def test_the_data_root_may_name_variables_of_the_node(tmp_path, monkeypatch):
    (job,) = jobs_of(tmp_path)
    moved = replace(job, options=replace(job.options, data_root=Path("$SLURM_TMPDIR/data")))
    text = moved.to_json()
    monkeypatch.setenv("SLURM_TMPDIR", "/node/disk")
    assert Job.from_json(text).options.data_root == Path("/node/disk/data")


def test_another_versions_job_is_refused(tmp_path):
    (job,) = jobs_of(tmp_path)
    tree = json.loads(job.to_json())
    tree["settings"]["seed"] = 9
    with pytest.raises(ValueError, match="another version"):
        Job.from_json(json.dumps(tree))


def test_the_outcome_is_the_record_else_the_failure(tmp_path):
    from tests.suite.plans import plan_of

    (run,) = plan_of("logger=none", "device=cpu")
    (job,) = jobs_of(tmp_path)
    assert job.run_id == run.run_id
    assert job.outcome() is None
    note_failure(job.run_id, job.folder, RuntimeError("boom"))
    failed = job.outcome()
    assert failed is not None
    write_record(tmp_path / "results", run, [90.0])
    assert job.outcome() not in (None, failed)
