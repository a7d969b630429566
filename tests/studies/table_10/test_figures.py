from __future__ import annotations

import json

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from llqr_sam.report.figures.drawing import NoRecords, write_figure
from llqr_sam.studies.table_10 import figures as cadence_figures
from llqr_sam.studies.table_10.figures import figure_05, figure_06
from tests.studies.table_10.timings import busy, write_timings


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures as objects, beside their files."""
    figures: list[Figure] = []

    def write(figure, path):
        figures.append(figure)
        return write_figure(figure, path)

    monkeypatch.setattr(cadence_figures, "write_figure", write)
    return figures


def test_figure_05(tmp_path, drawn):
    write_timings(tmp_path)
    (path,) = figure_05(tmp_path, tmp_path / "figures")
    assert matplotlib.image.imread(path).std() > 0
    small, base = drawn[0].axes
    assert small.get_title("left") == "ViT-S/16, diagonal, batch 2, a CPU"
    assert base.get_title("left").startswith("ViT-B/16")
    assert [text.get_text() for text in small.get_legend().get_texts()] == ["SGD", "AdamW", "SAM", "LLQR", "LLQR+SAM"]


def test_figure_06_fits_the_power(tmp_path, drawn):
    write_timings(tmp_path)
    (path,) = figure_06(tmp_path, tmp_path / "figures")
    assert matplotlib.image.imread(path).std() > 0
    labels = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert labels == [
        "refresh: diagonal, ngd, batch 2, a CPU, grows with P^1.50",
        "SGD step: batch 2, a CPU, grows with P^1.50",
    ]


def test_no_power_is_fitted_through_one_size(tmp_path, drawn):
    """A record of a busy machine does not count: ViT-B is left."""
    write_timings(tmp_path)
    (tmp_path / "timings" / "vit_small.json").write_text(json.dumps(busy(tmp_path / "timings" / "vit_small.json")))
    figure_06(tmp_path, tmp_path / "figures")
    assert drawn[0].axes[0].get_legend().get_texts()[0].get_text() == "refresh: diagonal, ngd, batch 2, a CPU"


@pytest.mark.parametrize("figure", [figure_05, figure_06])
def test_without_measurements(figure, tmp_path):
    with pytest.raises(NoRecords, match="python train.py table=10"):
        figure(tmp_path, tmp_path)
