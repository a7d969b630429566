from __future__ import annotations

import re

import pytest

from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.run.lookup import find_run
from llqr_sam.suite.run.run_folder import Begun
from tests.suite.plans import plan_of
from tests.suite.records import write_record

ENDED, OTHER, UNFINISHED = plan_of("table=demo", "optim=sam", "table.seeds=[0,1,2]")


@pytest.fixture
def places(tmp_path):
    """Two runs have ended, one has begun."""
    for run in (ENDED, OTHER):
        write_record(tmp_path / "results", run, [90.0])
    folder = tmp_path / "work" / UNFINISHED.run_id
    folder.mkdir(parents=True)
    Begun(UNFINISHED.settings.as_dict(), UNFINISHED.folder).write(folder)
    return tmp_path / "results", tmp_path / "work"


def test_a_run_by_its_id_a_beginning_its_record_or_its_folder(places):
    results, workspace = places
    path = results / "runs" / "demo" / f"{ENDED.run_id}.json"
    for name in (ENDED.run_id, ENDED.run_id[:-3], str(path)):
        run = find_run(name, results, workspace)
        assert (run.run_id, run.config, run.path) == (ENDED.run_id, ENDED.settings.as_dict(), path)
        assert run.folder == workspace / ENDED.run_id
    for name in (UNFINISHED.run_id, UNFINISHED.run_id[:-3], str(workspace / UNFINISHED.run_id)):
        run = find_run(name, results, workspace)
        assert (run.run_id, run.config, run.record) == (UNFINISHED.run_id, UNFINISHED.settings.as_dict(), None)


def test_the_finished_record_of_a_retried_run_counts(tmp_path):
    write_record(tmp_path, ENDED, [10.0], "diverged")
    last = write_record(tmp_path, ENDED, [90.0])
    assert find_run(ENDED.run_id, tmp_path, tmp_path / "work").path == last


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("digits-", r"digits- is the beginning of 3 runs: digits-small_cnn-sam-s0-"),
        ("digits-smallcnn-sam", r"There is no run digits-smallcnn-sam in .*\(did you mean digits-small_cnn-sam"),
        ("imagenet", "There is no run imagenet in .*runs or .*work[.]$"),
        ("runs/none.json", "runs/none.json is neither the file of a record nor a run's folder"),
    ],
)
def test_a_name_that_means_no_run_or_several(name, reason, places):
    with pytest.raises(UsageError, match=reason):
        find_run(name, *places)


def test_a_damaged_record_is_named(tmp_path):
    path = write_record(tmp_path, ENDED, [90.0])
    path.write_text("{")
    for name in (ENDED.run_id, str(path)):
        with pytest.raises(UsageError, match=re.escape(str(path))):
            find_run(name, tmp_path, tmp_path / "work")
