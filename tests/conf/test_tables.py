"""The table files ask for the paper's runs: no cell too few, none too many."""

from __future__ import annotations

import csv
import math
from collections import Counter

import pytest

from llqr_sam.report.tables.accuracy_table import ACCURACY, read_accuracy
from llqr_sam.repository import CONF
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.command_line import groups
from tests.suite.plans import plan_of, settings_of

TIMED = ("10",)  # networks and methods that are timed, not trained
RUNS = {"1": 140, "2": 140, "3": 36, "4": 160, "5": 18, "6": 20, "7": 15, "8": 60}
OURS = {"demo": 42, "epochs_15": 6, "epochs_30": 3}  # tables that are not the paper's
RUNS |= OURS


def test_the_tables_are_these():
    assert set(groups()["table"]) == {*RUNS, *TIMED}


@pytest.mark.parametrize(("number", "count"), RUNS.items())
def test_runs_of_a_table(number, count):
    runs = plan_of(f"table={number}")
    assert len(runs) == count == len({run.run_id for run in runs})
    assert {run.folder for run in runs} == {number if number in OURS else f"table_0{number}"}


@pytest.mark.parametrize("number", [number for number in RUNS if number not in OURS])
def test_cells_are_those_of_the_paper(number):
    """Every accuracy of the table in results/paper/accuracy.csv has its cell and its seeds, and vice versa."""
    planned = Counter(run.cell for run in plan_of(f"table={number}"))
    assert set(planned) == {cell for table, cell in read_accuracy() if table == number}
    with ACCURACY.open(newline="") as file:
        seeds = {int(row["seeds"]) for row in csv.DictReader(file) if row["table"] == number}
    assert set(planned.values()) == seeds


def test_the_timed_table_has_the_networks_methods_and_updates_of_the_paper():
    """results/paper/table10_cadence.csv: its networks and two smaller ones; epochs of 1,600 steps make its updates."""
    table = Command.of("table=10").table
    runs = plan_of("table=10")
    assert {run.cell.arch for run in runs} == {"vit_tiny", "vit_small", "vit_base", "vit_large"}
    assert {run.settings.optim.llqr and run.settings.optim.llqr.inner_steps for run in runs} == {None, 50}
    with (ACCURACY.parent / "table10_cadence.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    updates = {int(row["update_interval"]): int(row["updates"]) for row in rows if row["updates"]}
    assert {n: math.ceil(table.timing.steps_per_epoch / n) for n in table.timing.intervals} == updates
    labels = {"sgdm": "SGD", "adamw": "AdamW", "sam": "SAM", "llqr": "LLQR", "llqr_sam": "LLQR+SAM"}
    assert {labels[run.cell.method] for run in runs} == {row["method"] for row in rows}


def test_a_cell_is_a_run_without_flags():
    """Dataset, arch, optim, geometry and seed are all that a cell needs: the same run id by hand and by table."""
    run = next(run for run in plan_of("table=2") if run.cell.geometry == "newton" and run.settings.seed == 3)
    cell = run.cell
    words = (f"dataset={cell.dataset}", f"arch={cell.arch}", f"optim={cell.method}", "geometry=newton", "seed=3")
    assert settings_of(*words).run_id == run.run_id


@pytest.mark.parametrize("epochs", [15, 30])
def test_a_short_schedule_is_the_papers_compressed_and_no_run_of_the_papers(epochs):
    """Its words hold for every run; the command's replace them; the rest is the run of the same method in Table 2."""
    runs = plan_of(f"table=epochs_{epochs}")
    papers = {run.run_id for number in RUNS if number not in OURS for run in plan_of(f"table={number}")}
    assert not papers & {run.run_id for run in runs}
    assert not [table for table, _ in read_accuracy() if table.startswith("epochs")], "no value of the paper beside it"
    for run in runs:
        words = (f"optim={run.cell.method}", "precision=fast", f"protocol.epochs={epochs}")
        assert run.settings == settings_of("dataset=cifar100", "arch=resnet18", *words)
    (changed, *_) = plan_of(f"table=epochs_{epochs}", "precision=default", "protocol.epochs=2")
    assert changed.settings.precision == settings_of("precision=default").precision
    assert changed.settings.protocol.epochs == 2


def test_label_noise_of_table_8():
    assert {run.settings.dataset.label_noise for run in plan_of("table=8")} == {0.2, 0.6, 0.7, 0.8}
    assert {run.settings.dataset.label_noise for run in plan_of("table=demo")} == {0.4}


@pytest.mark.parametrize("number", [*RUNS, *TIMED])
def test_file_opens_with_its_command_and_cost(number):
    head = [line for line in (CONF / "table" / f"{number}.yaml").read_text().splitlines() if line.startswith("#")]
    assert f"python train.py table={number}" in head[1]
    assert number in TIMED or f"{RUNS[number]} runs" in head[0]
    assert any("Cost" in line for line in head)


@pytest.mark.parametrize("number", ["1", "2", "3", "4", "7", "8"])
def test_weight_decay_is_selected_as_in_the_paper(number):
    """Appendix C: from {1e-4, 5e-4, 1e-3} by the baseline; one selection for each data set and network."""
    runs = plan_of(f"table={number}", "select=weight_decay")
    rows = {(run.cell.dataset, run.cell.arch) for run in plan_of(f"table={number}")}
    decays = {(*row, decay) for row in rows for decay in (1e-4, 5e-4, 1e-3)}
    assert {(run.cell.dataset, run.cell.arch, run.settings.optim.base.weight_decay) for run in runs} == decays
    assert {run.cell.method for run in runs} == {"sgdm"}
    assert len(runs) == len({run.run_id for run in runs})


def test_tables_of_a_data_set_and_network_share_one_selection():
    files = {run.choices[-1].path for number in ("2", "7", "8") for run in plan_of(f"table={number}", "arch=resnet18")}
    assert len(files) == 1
