"""What the tests of table, picture and page share: the claims of made-up records, gathered once."""

from __future__ import annotations

from pathlib import Path

import pytest

from llqr_sam.report.claims.evidence import Evidence
from tests.report.claims.made_up import gather_at_paper, write_table

GAINS = {
    "sgdm": 0.0,
    "llqr-ngd": 0.1,
    "llqr-newton": -2.0,
    "sam": 0.6,
    "fisher_sam": 0.4,
    "llqr_sam-ngd": 2.0,
    "llqr_sam-newton": 0.7,
}
NUMBERS = ("2", "7", "8")


@pytest.fixture(scope="session")
def made_up(tmp_path_factory) -> Path:
    """Records of Table 2, of two noise levels of Table 8, and of one seed of Table 7's probe."""
    results = tmp_path_factory.mktemp("results")
    write_table(results, "table=2", gains=GAINS)
    write_table(results, "table=8", gains=GAINS, noise_gain=3.0, noises=[0.2, 0.8])
    write_table(results, "table=7", gains={"llqr_probe_sam-ngd": 0.5}, seeds=[0])
    return results


@pytest.fixture(scope="session")
def evidence(made_up) -> Evidence:
    """What they say of the claims."""
    return gather_at_paper(NUMBERS, [f"paths.results={made_up}"])
