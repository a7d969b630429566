"""Table 10 from measurements: composed by hand here, and beside the paper's numbers."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest

from llqr_sam.report.tables.printed_table import to_latex, to_markdown, write_table
from llqr_sam.studies.table_10.table import (
    CADENCE,
    NUMBERS,
    NetworkTimes,
    Spread,
    cadence,
    overview,
    print_cadence,
    read_paper,
)
from llqr_sam.suite.config.command import Command
from tests.studies.table_10.timings import timing_of

TABLE = Command.of("table=10").table


@pytest.fixture(scope="module")
def networks() -> list[NetworkTimes]:
    """ViT-B alone is measured."""
    return cadence(TABLE, [timing_of("vit_base", 86_567_656)])


def test_epochs_are_steps_and_refreshes(networks):
    """1,600 steps of 2 s and 4 refreshes of 100 s in the first round, twice that in the second."""
    (base,) = [network for network in networks if network.timing]
    (row,) = [row for row in base.rows if (row.method, row.interval) == ("llqr_sam", 500)]
    assert row.updates == 4
    assert row.ours == {
        "epoch_seconds": Spread(median=5400.0, low=3600.0, high=7200.0),
        "ratio_vs_sgd": Spread(2.25, 2.25, 2.25),  # a slow round is slow for both
        "ratio_vs_sam": Spread(1.125, 1.125, 1.125),
        "steady_update_seconds": Spread(150.0, 100.0, 200.0),
    }
    assert [row.paper[name] for name in NUMBERS[1:]] == [4.68, 1.66, 40.58]


def test_a_method_without_a_metric_has_no_refreshes(networks):
    (sam,) = [row for row in networks[2].rows if row.method == "sam"]
    assert (sam.interval, sam.updates) == (None, None)
    assert "steady_update_seconds" not in sam.ours
    assert sam.ours["epoch_seconds"] == Spread(4800.0, 3200.0, 6400.0)
    assert sam.ours["ratio_vs_sam"] == Spread(1.0, 1.0, 1.0)


def test_every_row_of_the_paper_stands_beside_ours(networks):
    with CADENCE.open(newline="") as file:
        assert len(read_paper()) == len(list(csv.DictReader(file)))
    shown = [row.paper for network in networks for row in network.rows if row.paper]
    assert sorted(map(repr, shown)) == sorted(map(repr, read_paper().values()))


def test_csv_opens_with_the_columns_of_the_papers_file(networks):
    with CADENCE.open(newline="") as file:
        heads = next(csv.reader(file))
    rows = list(csv.DictReader(io.StringIO(print_cadence(TABLE, networks).csv)))
    assert list(rows[0])[: len(heads)] == heads
    (base,) = [r for r in rows if (r["arch"], r["method"], r["update_interval"]) == ("ViT-B/16", "LLQR", "1500")]
    assert [base[head] for head in heads[2:]] == ["1500", "2", "2700", "1.125", "0.5625", "150"]
    others = ("device", "batch", "structure", "paper_ratio_vs_sgd")
    assert [base[name] for name in others] == ["a CPU", "2", "diagonal", "2.75"]
    (large,) = [r for r in rows if (r["arch"], r["method"]) == ("ViT-L/16", "SAM")]
    assert (large["epoch_seconds"], large["paper_epoch_seconds"], large["device"]) == ("", "146.54", "")


def test_markdown(networks):
    text = to_markdown(print_cadence(TABLE, networks))
    assert "## ViT-L/16\n\nNot measured.\n" in text
    assert "| LLQR+SAM | 500 | 4 | 5,400 (3,600-7,200)<br>paper 155.50 | 2.25 (2.25-2.25)<br>paper 4.68 |" in text
    assert "| SAM | - | - | not measured<br>paper 146.54 | not measured<br>paper 2.34 |" in text
    assert "A CPU, 2 CPU threads; batch 2, float32; ngd, diagonal, T = 50; torch 2, commit 0123456." in text
    assert "1 of 4 networks measured. Command: `python train.py table=10`." in text


@pytest.mark.parametrize(("refresh", "said"), [(None, "T = 50;"), ("tf32", "T = 50, products in tf32;")])
def test_a_measurement_says_in_what_its_refreshes_are_computed(refresh, said):
    timing = dataclasses.replace(timing_of("vit_base", 1), precision={"autocast": "bfloat16", "refresh": refresh})
    (network,) = [s for s in cadence(TABLE, [timing]) if s.timing is not None]
    assert f"batch 2, bfloat16; ngd, diagonal, {said}" in network.where()


def test_latex(networks):
    text = to_latex(print_cadence(TABLE, networks))
    assert r"LLQR+SAM & 500 & 4 & 5,400 (3,600-7,200) & 2.25 (2.25-2.25) & 1.12 (1.12-1.12) & 150.00" in text
    assert r" &  & paper & 155.50 & 4.68 & 1.66 & 40.58 \\" in text
    assert text.count("{") == text.count("}")


def test_overview_names_the_device_and_only_what_was_measured(networks):
    lines = list(overview(networks))
    assert lines[0].startswith("ViT-B/16: a CPU, 2 CPU threads; batch 2")
    assert len(lines) == 2 + 3 + 2 * 6
    assert lines[-1].split() == ["LLQR+SAM", "1500", "5100.00", "2.12", "3.39", "1.06", "1.20"]


def test_equal_measurements_give_equal_bytes(networks, tmp_path):
    paths = write_table(print_cadence(TABLE, networks), tmp_path / "table_10")
    first = [path.read_bytes() for path in paths]
    assert [path.name for path in paths] == ["table_10.md", "table_10.csv", "table_10.tex"]
    write_table(print_cadence(TABLE, networks), tmp_path / "table_10")
    assert [path.read_bytes() for path in paths] == first
