from __future__ import annotations

from llqr_sam.data.registry import OWN
from llqr_sam.engine.tasks.registry import archs, datasets
from llqr_sam.models.libraries import LIBRARIES
from llqr_sam.report.tables.labels import ARCH_LABELS, DATASET_LABELS, METHOD_LABELS, method_label
from llqr_sam.suite.config.command_line import groups
from llqr_sam.suite.plan.plan import Cell


def test_every_name_has_a_label():
    """Data of your own and the libraries' networks are called as they call themselves."""
    assert set(DATASET_LABELS) == set(datasets()) - set(OWN)
    assert set(ARCH_LABELS) == set(archs()) - set(LIBRARIES)
    assert set(METHOD_LABELS) == set(groups()["optim"])
    assert method_label(Cell("digits", "small_cnn", 0.0, "llqr_sam", "newton")) == "LLQR+SAM (Newton)"
