from __future__ import annotations

from unittest import mock

from llqr_sam.report.tables import reader
from llqr_sam.report.tables.reader import TableReader
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.plan.plan import plan
from llqr_sam.suite.plan.selected_values import write_choice
from tests.suite.plans import plan_of
from tests.suite.records import write_record


def test_a_table_is_read_once_until_it_is_forgotten_and_planned_once(tmp_path):
    command, tables = Command.of("table=7", f"paths.results={tmp_path}"), TableReader()
    with mock.patch.object(reader, "plan", side_effect=plan) as planned:
        first = tables.read(command)
        write_record(tmp_path, plan_of("table=7")[0], [80.0])
        assert tables.read(Command.of(f"paths.results={tmp_path}", "table=7")) is first
        tables.forget()
        _, table = tables.read(command)
    assert len(table.cells[0].finished) == 1
    assert planned.call_count == 1


def test_a_value_selected_since_is_planned(tmp_path):
    decay = "{key: protocol.methods.weight_decay, candidates: [1.0e-5, 1.0e-3], optim: sgdm}"
    words = ["table=demo", f"table.selections=[{decay}]", f"paths.results={tmp_path}"]
    tables, command = TableReader(), Command.of(*words)
    before = {run.run_id for run in tables.read(command)[0].runs}
    write_choice(plan(Command.of(*words, "select=weight_decay"))[0].choices[-1], {})
    tables.forget()
    assert before.isdisjoint(run.run_id for run in tables.read(command)[0].runs)
