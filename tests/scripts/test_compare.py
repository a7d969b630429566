"""scripts/compare.py, as it is typed."""

from __future__ import annotations

from tests.scripts.running import script
from tests.suite.plans import plan_of
from tests.suite.records import write_record

(SAM,), (SGDM,) = plan_of("optim=sam"), plan_of("optim=sgdm")


def test_two_runs(tmp_path):
    path = write_record(tmp_path, SAM, [90.0])
    write_record(tmp_path, SGDM, [89.0])
    places = (f"paths.results={tmp_path}", f"paths.workspace={tmp_path}/work")
    status, output, errors = script("compare.py", str(path), "digits-small_cnn-sgdm", *places)
    assert (status, errors) == (0, [])
    assert output[0].startswith(f"a  {SAM.run_id}  finished  {path}")
    assert ["optim.name", "sam", "sgdm"] in [line.split() for line in output]
    status, output, errors = script("compare.py", "digits-small_cnn-s", "digits", *places)
    assert (status, output) == (2, [])
    assert errors == [f"error: digits-small_cnn-s is the beginning of 2 runs: {SAM.run_id}, {SGDM.run_id}."]
