from __future__ import annotations

import dataclasses

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from llqr_sam.report.figures.drawing import NoRecords, write_figure
from llqr_sam.studies.table_10 import figures as cadence_figures
from llqr_sam.studies.table_10.figures import figure_05, figure_06
from tests.studies.table_10.timings import write_timings


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


def test_a_refresh_that_cannot_be_composed_is_not_drawn(tmp_path, drawn):
    """ViT-S was measured on a busy machine: no power is fitted through one size."""
    small, _ = write_timings(tmp_path)
    refresh = dataclasses.replace(small.refresh, timed=5, first=[9.0, 9.0], longer=[8.0, 8.0])
    dataclasses.replace(small, refresh=refresh).write(tmp_path / "timings" / "vit_small.json")
    figure_05(tmp_path, tmp_path / "figures")
    figure_06(tmp_path, tmp_path / "figures")
    legends = [[text.get_text() for text in figure.axes[0].get_legend().get_texts()] for figure in drawn]
    assert legends[0] == ["SGD", "AdamW", "SAM"]
    assert legends[1][0] == "refresh: diagonal, ngd, batch 2, a CPU"


@pytest.mark.parametrize("figure", [figure_05, figure_06])
def test_without_measurements(figure, tmp_path):
    with pytest.raises(NoRecords, match="python train.py table=10"):
        figure(tmp_path, tmp_path)
