"""A table's rows on the page, and the sources of its cells."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from llqr_sam.engine.observers.wandb_logger import URL_FILE
from llqr_sam.report.page.accuracy_section import accuracy_section
from llqr_sam.report.page.section import CellSource, Section
from llqr_sam.report.tables.accuracy_table import collect
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.plan.plan import plan
from llqr_sam.suite.plan.selected_values import write_choice
from llqr_sam.suite.run.lock import RunLock
from llqr_sam.suite.run.run_folder import Epochs, note_failure
from tests.report.claims.made_up import write_table
from tests.suite.plans import plan_of
from tests.suite.records import write_record

DECAY = "{key: protocol.methods.weight_decay, candidates: [1.0e-5, 1.23456789e-3], optim: sgdm}"
RHO = "{key: protocol.methods.rho, candidates: [0.05, 0.2], optim: sam}"


def section(command: Command) -> Section:
    return accuracy_section(command, *collect(command))


def sources(*words: str) -> Sequence[CellSource]:
    """Of a table of SGDM and LLQR+SAM that selects weight decay and rho, each cell with a finished run."""
    table = ["table=demo", "table.methods=[{optim: sgdm},{optim: llqr_sam, geometry: newton}]"]
    table += [f"table.selections=[{DECAY},{RHO}]", *words]
    command = Command.of(*table)
    for run in plan(command):
        if run.settings.seed == 0:
            write_record(command.config.paths.results, run, [90.0])
    return section(command).sources


def select(name: str, number: int, *words: str) -> None:
    """Choose a candidate as if it had been the best."""
    chosen = ["table=demo", f"table.selections=[{DECAY},{RHO}]", f"select={name}", *words]
    found = dict.fromkeys(run.choices[-1] for run in plan(Command.of(*chosen)))
    write_choice(list(found)[number], {})


def composed(source: CellSource) -> str:
    """The run that the printed command is of."""
    python, program, *words = shlex.split(source.command)
    assert (python, program) == ("python", "train.py")
    (run,) = plan_of(*words)
    return run.run_id


@pytest.mark.parametrize("number", [0, 1])
def test_the_command_of_a_cell_is_of_its_runs(number, tmp_path):
    """Before anything is selected, and with what is."""
    place = f"paths.results={tmp_path}"
    before = sources(place)
    assert [composed(source) for source in before] == [source.runs[0].run_id for source in before]
    assert all("weight_decay" not in source.command for source in before)
    select("weight_decay", number, place)
    select("rho", number, place)
    after = sources(place)
    assert [composed(source) for source in after] == [source.runs[0].run_id for source in after]
    assert not {run.run_id for source in after for run in source.runs} & {source.runs[0].run_id for source in before}


@pytest.mark.parametrize("words", [(), ("protocol.augment=true", "precision=fast")])
def test_the_command_of_a_cell_has_the_words_of_its_table(words, tmp_path):
    """The demo's own, and those that the page was asked for, which replace them."""
    found = sources(f"paths.results={tmp_path}", *words)
    assert [composed(source) for source in found] == [source.runs[0].run_id for source in found]
    assert not any("paths.results" in source.command for source in found)


RUNS = plan_of("table=7")  # FisherSAM, LLQR^Delta+SAM, LLQR+SAM, five seeds each


def table_7(results: Path, scores: Mapping[int, float], *words: str) -> Section:
    """The section with a score for each of these runs."""
    for number, score in scores.items():
        write_record(results, RUNS[number], [60.0, score, score - 1.0])
    return section(Command.of("table=7", f"paths.results={results}", f"paths.workspace={results}/work", *words))


def test_a_row_is_a_list_of_methods_with_their_differences(tmp_path):
    """FisherSAM is the baseline; LLQR^Delta+SAM 1, 1.1 and 1.2 above it; LLQR+SAM has one seed."""
    found = table_7(tmp_path, {0: 80.0, 1: 81.0, 2: 82.0, 5: 81.0, 6: 82.1, 7: 83.2, 10: 85.0})
    assert found.has_begun
    (place,) = found.places
    assert (place.title, place.baseline) == ("ResNet-18 on CIFAR-100", "FisherSAM")
    fisher, probe, both = place.lines
    assert (fisher.ours, fisher.last, fisher.difference) == ("81.00 ± 1.00 (3 of 5)", "80.00 ± 1.00", None)
    assert (probe.difference.text, probe.difference.interval) == ("+1.10", "[+0.85, +1.35]")  # 4.303 x 0.1 / sqrt(3)
    assert (probe.difference.n, probe.difference.tone, probe.best) == (3, "above", False)
    assert (both.difference.text, both.difference.interval, both.difference.tone) == ("+5.00", "", "even")
    assert (both.paper, both.to_paper, both.to_paper_tone) == ("81.82 ± 0.14", "+3.18", "same")
    assert place.chart is not None


def test_the_papers_value_is_above_or_below_where_it_is_outside_our_interval(tmp_path):
    lines = table_7(tmp_path, {0: 75.0, 1: 75.1, 2: 75.2, 5: 90.0, 6: 90.1, 10: 81.0, 11: 83.0}).places[0].lines
    assert [line.to_paper_tone for line in lines] == ["below", "above", "same"]


def test_nothing_run_has_no_differences_and_no_sources(tmp_path):
    found = table_7(tmp_path, {})
    assert (found.has_begun, found.answers, list(found.sources), found.places[0].axis) == (False, [], [], None)
    assert [line.ours for line in found.places[0].lines] == ["not run"] * 3


def test_a_run_that_is_going_on_has_its_epoch_and_time_left(tmp_path):
    run = RUNS[0]
    folder = tmp_path / "work" / run.run_id
    with RunLock(folder, 10):
        Epochs(50, 200, 71.25, 600.0, time.time(), 1, "%").write(folder)
        found = table_7(tmp_path, {5: 80.0})
    fisher, probe, _ = found.places[0].lines
    assert list(found.running) == [run.run_id]
    (line,) = fisher.running
    assert re.match(r"seed 0 running: epoch 50/200, best 71.25 %, 0:(30:00|29:5\d) left, on ", line)
    assert list(probe.running) == []
    assert next(source.name for source in found.sources).startswith("FisherSAM")


def test_a_run_in_weights_and_biases_has_its_address(tmp_path):
    folder = tmp_path / "work" / RUNS[0].run_id
    folder.mkdir(parents=True)
    (folder / URL_FILE).write_text("https://wandb.ai/me/llqr-sam/runs/1\n")
    first, second = table_7(tmp_path, {0: 80.0, 1: 81.0}).sources[0].runs[:2]
    assert (first.wandb, second.wandb) == ("https://wandb.ai/me/llqr-sam/runs/1", "")


def test_a_failed_run_is_something_to_show(tmp_path):
    note_failure(RUNS[0].run_id, tmp_path / "work" / RUNS[0].run_id, RuntimeError("boom"))
    found = table_7(tmp_path, {})
    assert (found.has_begun, list(found.failed)) == (True, [RUNS[0].run_id])


def test_each_row_has_its_own_answer_and_rows_are_not_pooled(tmp_path):
    """Table 8: rows with unlike seeds, and one of a single seed."""
    gains = {"sgdm": 0.0, "sam": 5.0}
    write_table(tmp_path, "table=8", gains=gains, seeds=[0, 1], noises=[0.2])
    write_table(tmp_path, "table=8", gains=gains, seeds=[1, 2], noises=[0.6])
    write_table(tmp_path, "table=8", gains=gains, seeds=[2], noises=[0.8])
    answers = section(Command.of("table=8", f"paths.results={tmp_path}")).answers
    assert [name.rpartition(", ")[2] for name, _ in answers] == [f"{noise} % label noise" for noise in (20, 60, 80)]
    assert [found.sentences[0].difference.n for _, found in answers] == [2, 2, 1]
    assert answers[0][1].summary == "SAM is better than SGDM."
    assert answers[2][1].summary == "SAM has one seed, too few to be compared with SGDM."


def test_a_second_geometry_of_the_baseline_is_compared_with_the_first(tmp_path):
    methods = "[{optim: llqr, geometry: ngd},{optim: llqr, geometry: newton},{optim: sam}]"
    command = Command.of(
        *("table=demo", f"table.methods={methods}", "table.baseline=llqr", "table.seeds=[0,1,2]"),
        f"paths.results={tmp_path}",
    )
    write_some = {"ngd": 80.0, "newton": 85.0, None: 82.0}
    for run in plan(command):
        write_record(tmp_path, run, [write_some[run.cell.geometry] + 0.1 * run.settings.seed**2])
    found = section(command)
    ((_, answer),) = found.answers
    assert [each.method for each in answer.sentences] == ["LLQR (Newton)", "SAM"]
    assert found.places[0].baseline == "LLQR (NGD)"
    assert "mean difference to LLQR (NGD) over" in found.table.caption


def test_a_diverged_run_is_said_and_its_cell_is_not_marked(tmp_path):
    for number, score in {0: 80.0, 1: 81.0, 2: 82.0, 10: 85.0, 11: 86.1, 12: 87.2}.items():
        write_record(tmp_path, RUNS[number], [score])
    write_record(tmp_path, RUNS[13], [1.0], status="diverged")
    found = table_7(tmp_path, {})
    ((_, answer),) = found.answers
    assert (answer.sentences[0].verdict, answer.sentences[0].lost) == ("is better than FisherSAM", "1 diverged")
    assert [line.best for line in found.places[0].lines] == [False, False, False]
