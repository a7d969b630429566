from __future__ import annotations

import json
import math

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from llqr_sam.report.figures.drawing import NoRecords
from llqr_sam.studies.table_10 import figures as cadence_figures
from llqr_sam.studies.table_10.figures import LABELS_OF_SECONDS, _ticks, figure_05, figure_06
from tests.figures import drawn_by
from tests.studies.table_10.timings import busy, write_timings


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures as objects, beside their files."""
    return drawn_by(cadence_figures, monkeypatch)


def test_figure_05(tmp_path, drawn):
    write_timings(tmp_path)
    (path,) = figure_05(tmp_path, tmp_path / "figures")
    assert matplotlib.image.imread(path).std() > 0
    small, base = drawn[0].axes
    assert small.get_title("left") == "ViT-S/16, diagonal, batch 2, a CPU"
    assert base.get_title("left").startswith("ViT-B/16")
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["SGD", "AdamW", "SAM", "LLQR", "LLQR+SAM"]
    for axes in (small, base):
        low, high = axes.get_ylim()
        assert len([tick for tick in axes.get_yticks() if low <= tick <= high]) >= LABELS_OF_SECONDS
        assert all(label.get_text() for label in axes.get_yticklabels())


@pytest.mark.parametrize(("low", "high"), [(180, 800), (650, 2600), (2.0, 3.1), (0.9, 1.4), (0.05, 400), (97, 118)])
def test_seconds_have_at_least_four_labels(low, high):
    ticks = _ticks(low, high)
    assert LABELS_OF_SECONDS <= len(ticks) <= 14
    assert low <= ticks[0] < ticks[-1] <= high


def test_figure_06_fits_the_power(tmp_path, drawn):
    write_timings(tmp_path)
    (path,) = figure_06(tmp_path, tmp_path / "figures")
    assert matplotlib.image.imread(path).std() > 0
    (legend,) = drawn[0].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["refresh: diagonal, ngd, batch 2, a CPU, P^1.50", "SGD step: batch 2, a CPU, P^1.50"]
    assert drawn[0].get_suptitle().endswith("P^1.50 measured here, P^1.27 to 1.28 in the paper")
    note = legend.get_title().get_text().replace("\n", " ")
    assert note.startswith("Measured on a CPU at batch 2, 2 sizes. The paper names neither its device nor its batch")


def test_figure_06_has_the_slope_of_the_paper_from_the_smallest_network(tmp_path, drawn):
    write_timings(tmp_path)
    figure_06(tmp_path, tmp_path / "figures")
    axes = drawn[0].axes[0]
    (reference,) = [line for line in axes.lines if line.get_linestyle() == ":"]
    measured = axes.lines[0]
    (x0, x1), (y0, y1) = reference.get_data()
    assert (x0, y0) == (measured.get_xdata()[0], measured.get_ydata()[0])
    assert 1.27 <= math.log(y1 / y0) / math.log(x1 / x0) <= 1.28
    assert [text.get_text() for text in axes.texts] == ["slope of the paper, P^1.27 to 1.28"]


def test_no_power_is_fitted_through_one_size(tmp_path, drawn):
    """A record of a busy machine does not count: ViT-B is left."""
    write_timings(tmp_path)
    (tmp_path / "timings" / "vit_small.json").write_text(json.dumps(busy(tmp_path / "timings" / "vit_small.json")))
    figure_06(tmp_path, tmp_path / "figures")
    assert drawn[0].legends[0].get_texts()[0].get_text() == "refresh: diagonal, ngd, batch 2, a CPU"
    assert drawn[0].get_suptitle().endswith("\nP^1.27 to 1.28 in the paper")
    assert not drawn[0].axes[0].texts


@pytest.mark.parametrize("figure", [figure_05, figure_06])
def test_without_measurements(figure, tmp_path):
    with pytest.raises(NoRecords, match="python train.py table=10"):
        figure(tmp_path, tmp_path)
