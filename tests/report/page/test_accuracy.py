"""The sources of a table's cells on the page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pytest

from llqr_sam.report.page.page import CellSource, accuracy_section
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.plan.plan import plan
from llqr_sam.suite.plan.selected_values import write_choice
from tests.suite.plans import plan_of

DECAY = "{key: protocol.methods.weight_decay, candidates: [1.0e-5, 1.23456789e-3], optim: sgdm}"
RHO = "{key: protocol.methods.rho, candidates: [0.05, 0.2], optim: sam}"


def sources(*words: str) -> Sequence[CellSource]:
    """Of a table of SGDM and LLQR+SAM that selects weight decay and rho."""
    table = ["table=demo", "table.methods=[{optim: sgdm},{optim: llqr_sam, geometry: newton}]"]
    table += [f"table.selections=[{DECAY},{RHO}]", *words]
    return accuracy_section(Command.of(*table)).sources


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
