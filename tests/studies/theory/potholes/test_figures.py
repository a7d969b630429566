"""Figures 2 and 3, small: one cell of each map, few steps and seeds."""

from __future__ import annotations

import csv
from functools import partial

import matplotlib.image
import pytest

from llqr_sam.studies.theory.potholes import figures as landscapes
from llqr_sam.studies.theory.potholes.figures import CELLS, MAPS, NOISY, VARIANCES, Grid, figure_02, figure_03
from llqr_sam.studies.theory.potholes.landscape import FATES, METHODS, VERDICTS, Learning, Survey


@pytest.fixture
def small(monkeypatch):
    """The figures' own code on one setting each, 30 steps."""
    one = {"run": Grid((1.8,), (1.0,), Learning()), "basin": Grid((0.17,), (0.15,), Learning(history="basin"))}
    monkeypatch.setattr(landscapes, "MAPS", one)
    monkeypatch.setattr(landscapes, "NOISY", ((1.8, 1.0),))
    monkeypatch.setattr(landscapes, "VARIANCES", (1e-9, 1e-2))
    monkeypatch.setattr(landscapes, "SEEDS", 5)
    monkeypatch.setattr(landscapes, "Survey", partial(Survey, steps=30))


def _rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_figure_02(small, tmp_path):
    picture, numbers, cells = figure_02(tmp_path)
    assert matplotlib.image.imread(picture).shape[1] == 832
    assert picture.with_suffix(".svg").stat().st_size < 250_000  # as it is in the page
    by_method = {row["method"]: row for row in _rows(numbers)}
    assert list(by_method) == list(METHODS)
    assert by_method["gd"]["end_ring"] == "1.000"
    assert by_method["gd"]["arrival_step"] == ""
    assert float(by_method["llqr_sam"]["path_to_flat"]) < float(by_method["sam"]["path_to_flat"])
    run, basin = _rows(cells)
    assert (run["metric"], run["eta_lambda"], run["rho"], run["verdict"]) == ("run", "1.8", "1.0", "holds")
    assert (basin["metric"], basin["verdict"], basin["sam_ring"]) == ("basin", "LLQR+SAM only", "1.0")


@pytest.mark.slow
def test_figure_03(small, tmp_path):
    picture, numbers, cells = figure_03(tmp_path)
    assert matplotlib.image.imread(picture).shape[1] == 832
    assert picture.with_suffix(".svg").stat().st_size < 250_000  # as it is in the page
    rows = _rows(numbers)
    assert [(row["noise_variance"], row["method"]) for row in rows] == [
        (variance, method) for variance in ("1e-09", "0.01") for method in METHODS
    ]
    for row in rows:
        assert sum(float(row[f"end_{fate}"]) for fate in FATES) == pytest.approx(1)
        assert row["runs"] == "5"
    assert {row["verdict"] for row in _rows(cells)} <= set(VERDICTS)


@pytest.mark.slow
def test_equal_runs_give_equal_bytes(small, tmp_path):
    first, second = figure_02(tmp_path / "a"), figure_02(tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_rounding_may_move_a_run_but_no_setting():
    """Shares by one run of eight, means by 0.001, counts of pairs by one; rates, radii and verdicts not at all."""
    columns = "eta_lambda", "rho", "noise_variance", "verdict", "method", "runs"
    row = dict.fromkeys((*columns, "sam_flat", "end_ring", "sam_path_to_flat", "path", "arrival_step", "both_arrive"))
    assert landscapes._slack([row], 8) == {
        **dict.fromkeys(("sam_flat", "end_ring"), 1 / 8),
        **dict.fromkeys(("sam_path_to_flat", "path", "arrival_step"), 0.001),
        "both_arrive": 1.0,
    }


def test_what_the_figures_cover():
    """Every verdict has a colour, the noise includes the paper's 1e-9, and the pictures' setting is surveyed."""
    assert list(CELLS) == list(VERDICTS)
    assert VARIANCES[0] == 1e-9
    assert landscapes.SEEDS == 100
    assert landscapes.FACTOR in MAPS["run"].factors
    assert landscapes.RHO in MAPS["run"].rhos
    assert (landscapes.FACTOR, landscapes.RHO) in NOISY
