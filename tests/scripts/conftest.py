from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.claims.made_up import write_table
from tests.scripts.pages import report


@pytest.fixture(scope="session")
def compared(tmp_path_factory) -> Path:
    """Table 7 as a whole: LLQR+SAM above its probe alone, which lies below FisherSAM."""
    folder = tmp_path_factory.mktemp("compared")
    write_table(folder, "table=7", gains={"fisher_sam": 0.0, "llqr_probe_sam-ngd": -2.0, "llqr_sam-ngd": 1.0})
    assert report(folder) == (0, [])
    return folder / "report" / "index.html"
