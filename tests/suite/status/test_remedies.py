from __future__ import annotations

import pytest

from llqr_sam.data.streams import MissingDataError
from llqr_sam.suite.run.run_folder import Failure, note_failure
from llqr_sam.suite.status.remedies import remedy
from llqr_sam.suite.status.status import Status
from tests.suite.plans import plan_of
from tests.suite.records import status_of

(RUN,) = plan_of("dataset=cifar10", "arch=resnet18", "optim=sgdm")


def failure(error: str) -> Failure:
    return Failure(error, "log.txt")


def test_data_that_are_here_now(tmp_path):
    missing = failure(f"MissingDataError: dataset=cifar10 is not at {tmp_path}/cifar10.npz. Prepare it")
    assert remedy(missing, RUN, tmp_path) is None
    (tmp_path / "cifar10.npz").touch()
    assert remedy(missing, RUN, tmp_path) == "its data are here now"
    assert remedy(failure("MissingDataError: a is missing: the data set is incomplete."), RUN, tmp_path) is None
    assert remedy(failure("RuntimeError: CUDA out of memory"), RUN, tmp_path) is None


@pytest.mark.parametrize(
    ("error", "found"),
    [
        ("ModuleNotFoundError: No module named 'json'", True),
        ("ModuleNotFoundError: No module named 'json.nothing_more'", True),
        ("ModuleNotFoundError: No module named 'no_such_package'", False),
        ("ValueError: dataset=cifar10 needs a package. It is not installed; make installs it.", True),
    ],
)
def test_a_package_that_is_here_now(error, found, tmp_path):
    assert (remedy(failure(error), RUN, tmp_path) == "the package is installed now") == found


def test_the_line_of_such_a_run_says_how_to_retry(tmp_path, monkeypatch):
    """Its failure is noted as a SLURM job notes it."""
    work = tmp_path / "work"
    note_failure(RUN.run_id, work / RUN.run_id, MissingDataError("dataset=cifar10 is not at data/cifar10.npz."))

    def line() -> str:
        status: Status = status_of([RUN], tmp_path / "results", work)
        return status.line(RUN)

    monkeypatch.chdir(tmp_path)
    assert line().endswith("log.txt)")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cifar10.npz").touch()
    assert line().endswith("log.txt); its data are here now: retry=failed tries it again")
