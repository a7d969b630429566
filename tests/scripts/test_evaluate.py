"""scripts/evaluate.py, as it is typed."""

from __future__ import annotations

import pytest

from llqr_sam.suite.run.attempt import attempt
from tests.scripts.running import script
from tests.suite.jobs import jobs_of


def test_a_run_with_kept_weights(tmp_path):
    (job,) = jobs_of(tmp_path, "optim=sgdm", "protocol.epochs=1", "keep_weights=true")
    record = attempt(job)
    words = ("digits-small_cnn-sgdm", f"paths.results={tmp_path}/results", f"paths.workspace={tmp_path}/work")
    status, output, errors = script("evaluate.py", *words, "device=cpu")
    assert (status, errors) == (0, [])
    assert output[0].startswith(f"{record.run_id}: {record.metrics.last.words} on the test set")
    assert output[-1].endswith("the same bit for bit")


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("optim.rho=1", "error: optim.rho=1 has no use here: the settings of a run are in its record. "),
        ("weights=first", "error: weights=first is not possible. Choose from: weights=last, weights=best."),
        ("sharpness=maybe", "error: sharpness=maybe must be true or false"),
        ("device=cpu", "error: There is no run digits in "),
    ],
)
def test_a_mistake_is_one_line(word, line, tmp_path):
    places = (f"paths.results={tmp_path}", f"paths.workspace={tmp_path}")
    status, output, errors = script("evaluate.py", "digits", word, *places)
    assert (status, output, len(errors)) == (2, [], 1)
    assert errors[0].startswith(line)
