"""The claims that are committed are what the committed records say."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from llqr_sam.report.claims.claims_text import write_claims
from llqr_sam.report.claims.evidence import gather
from llqr_sam.suite.config.command_line import groups

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "results"


@pytest.fixture(scope="module")
def committed(tmp_path_factory) -> Path:
    """A results folder with the records and selections that git knows, and no others."""
    listed = ["git", "ls-files", "results/runs", "results/selection"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True)
    if names.returncode:
        pytest.skip("not a git checkout: committed records cannot be told from others")
    folder = tmp_path_factory.mktemp("committed")
    for name in names.stdout.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    return folder / "results"


@pytest.mark.slow
def test_claims_are_those_of_the_records(committed, tmp_path):
    evidence = gather(groups()["table"], [f"paths.results={committed}"])
    for path in write_claims(evidence, tmp_path / "claims"):
        assert (RESULTS / "tables" / path.name).read_text() == path.read_text(), "run: make tables"


def test_the_readme_sums_them_up_in_their_own_words():
    """The third line of claims.md, whatever the line breaks."""
    verdict = (RESULTS / "tables" / "claims.md").read_text().splitlines()[2]
    assert " ".join(verdict.split()) in " ".join((REPOSITORY / "README.md").read_text().split())
