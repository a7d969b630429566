"""Selecting a hyper-parameter by the baseline, on the demo's digits; the accuracies are made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.launch.launch import launch
from llqr_sam.suite.plan.plan import Planned, plan
from llqr_sam.suite.run.run_folder import note_failure
from llqr_sam.suite.status.selection import conclude
from llqr_sam.suite.status.status import Status
from tests.suite.records import write_record

DECAYS = (1e-4, 5e-4, 1e-3)
DECAY = "{key: protocol.methods.weight_decay, candidates: [1.0e-4, 5.0e-4, 1.0e-3], optim: sgdm}"
RHO = "{key: protocol.methods.rho, candidates: [0.05, 0.2], optim: sam}"


class DemoCommand:
    """``python train.py table=demo <words>`` with both selections, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def plan(self, *words: str) -> list[Planned]:
        asked = ["table=demo", "table.seeds=[0,1]", f"table.selections=[{DECAY},{RHO}]", "logger=none"]
        asked += ["table.methods=[{optim: sgdm},{optim: llqr_sam, geometry: ngd}]"]
        asked += ["device=cpu", *words, f"paths.results={self.folder}/results", f"paths.workspace={self.folder}/w"]
        self.asked = Command.of(*asked)
        return plan(self.asked)

    def status(self, *words: str) -> Status:
        return Status.under(self.plan(*words), self.asked.config)

    def conclude(self, *words: str) -> list[str]:
        return list(conclude(self.status(*words), self.asked))

    def files(self) -> list[Path]:
        return list((self.folder / "results" / "selection").glob("*"))

    def records(self, *words: str, top1: Sequence[float], status: str = "finished") -> None:
        """A record for each run of the command: best accuracy as given, last one lower."""
        for run, best in zip(self.plan(*words), top1, strict=True):
            write_record(self.folder / "results", run, [best, 1.0], status)  # type: ignore[arg-type]


@pytest.fixture
def command(tmp_path: Path) -> DemoCommand:
    return DemoCommand(tmp_path)


def decays(runs: Sequence[Planned]) -> list[float | None]:
    return [run.settings.optim.base.weight_decay for run in runs]


def test_the_runs_are_the_baselines_at_each_candidate(command):
    """On clean labels, and those at the protocol's value are the runs that a person gets without any selection."""
    runs = command.plan("select=weight_decay")
    assert decays(runs) == [decay for decay in DECAYS for _ in (0, 1)]
    assert {(run.cell.method, run.cell.label_noise, run.folder) for run in runs} == {("sgdm", 0.0, "demo")}
    assert len({run.run_id for run in runs}) == 6
    assert {run.run_id for run in runs[2:4]} == {
        run.run_id for run in command.plan("optim=sgdm", "table.label_noise=[0.0]")
    }
    assert [run.settings.seed for run in command.plan("select=weight_decay", "seed=1")] == [1, 1, 1]


def test_the_best_mean_is_kept_and_used(command):
    """Of the best over training, not the last; from then on every method of the row has it, and the file says why."""
    words = "select=weight_decay"
    before = [run.run_id for run in command.plan()]
    command.records(words, top1=[90.0, 91.0, 90.0, 90.5, 80.0, 99.0])
    lines = command.conclude(words)
    (path,) = command.files()
    assert lines[-1] == f"  selected: 0.0001 ({path})"
    assert "90.50  2 of 2 runs" in lines[1]
    tree = json.loads(path.read_text())
    assert tree["choice"] == 1e-4
    assert [candidate["mean"] for candidate in tree["candidates"]] == [90.5, 90.25, 89.5]
    assert tree["candidates"][2]["runs"] == [run.run_id for run in command.plan(words)[4:]]
    assert (tree["table"], tree["arch"], tree["optim"], tree["seeds"]) == ("demo", "small_cnn", "sgdm", [0, 1])
    assert "best score over training, test top-1" in tree["criterion"]
    runs = command.plan()
    assert set(decays(runs)) == {1e-4}
    assert not {run.run_id for run in runs} & set(before)
    assert f"weight_decay=0.0001 for digits small_cnn: selected ({path})" in list(command.status().lines())


@pytest.mark.parametrize(
    ("metric", "score"), [("top1", "best test top-1 of sgdm"), ("val_bleu", "best validation BLEU of sgdm")]
)
def test_the_score_is_called_as_the_tables_metric(metric, score, command):
    words = ("select=weight_decay", f"table.metric={metric}")
    command.records(*words, top1=[90.0] * 6)
    assert command.conclude(*words)[0] == f"weight_decay for digits small_cnn, {score}:"
    (path,) = command.files()
    assert score.partition(" ")[2].removesuffix(" of sgdm") in json.loads(path.read_text())["criterion"]


def test_equal_means_are_equal_whatever_their_sums_round_to(command):
    """(95.8 + 95.6) / 2 and (96.0 + 95.4) / 2 differ in the last bit."""
    command.records("select=weight_decay", top1=[95.8, 95.6, 96.0, 95.4, 95.0, 95.0])
    assert "selected: 0.0001" in command.conclude("select=weight_decay")[-1]


def test_without_a_selection_the_protocols_value_is_used_and_said(command):
    assert set(decays(command.plan())) == {5e-4}
    assert (
        "weight_decay=0.0005 for digits small_cnn: the protocol's, nothing is selected (select=weight_decay)"
        in list(command.status().lines())
    )


def test_an_incomplete_selection_says_what_is_missing_and_keeps_nothing(command):
    words = "select=weight_decay"
    runs = command.plan(words)
    for run in runs[:3]:
        write_record(command.folder / "results", run, [90.0])
    note_failure(runs[3].run_id, command.folder / "w" / runs[3].run_id, RuntimeError("boom"))
    lines = command.conclude(words)
    assert lines[2].endswith("90.00  1 of 2 runs, 1 failed")
    assert lines[3].endswith("-  0 of 2 runs, 2 missing")
    assert lines[4].startswith("  not selected: 3 of 6 runs are missing; the same command continues (failed ones with")
    assert command.files() == []


def test_looking_keeps_nothing(command):
    words = ("select=weight_decay", "dry_run=true")
    command.records(*words, top1=[90.0] * 6)
    assert "selects 0.0001" in command.conclude(*words)[-1]
    assert command.files() == []


def test_a_candidate_that_diverged_is_not_chosen(command):
    words = "select=weight_decay"
    runs = command.plan(words)
    for run, (top1, status) in zip(
        runs, [(80.0, "finished")] * 4 + [(99.0, "finished"), (99.0, "diverged")], strict=True
    ):
        write_record(command.folder / "results", run, [top1], status)  # type: ignore[arg-type]
    assert "selected: 0.0001" in command.conclude(words)[-1]


def test_a_choice_stands(command):
    """More seeds, or other records, do not change what runs have been started with."""
    command.records("select=weight_decay", "seed=0", top1=[90.0, 80.0, 80.0])
    assert "selected: 0.0001" in command.conclude("select=weight_decay", "seed=0")[-1]
    (path,) = command.files()
    before = path.read_bytes()
    for run in command.plan("select=weight_decay", "seed=1"):
        write_record(command.folder / "results", run, [99.0 if run.settings.optim.base.weight_decay == 1e-3 else 1.0])
    chosen = f"  selected: 0.0001 ({path})"
    assert command.conclude("select=weight_decay", "seed=0")[-1] == chosen
    more = f"{chosen}, chosen from seeds 0: remove that file to choose again"
    assert command.conclude("select=weight_decay")[-1] == more
    assert path.read_bytes() == before


def test_a_choice_holds_for_its_own_protocol(command):
    """Not for other epochs, but for another table of the same data set and network, and for every structure."""
    command.records("select=weight_decay", top1=[1, 1, 1, 1, 90, 90])
    command.conclude("select=weight_decay")
    assert set(decays(command.plan("protocol.epochs=3"))) == {5e-4}
    assert set(decays(command.plan("optim=llqr_sam", "structure=kfac"))) == {1e-3}
    assert set(decays(command.plan("table.label_noise=[0.2]", "optim=sgdm"))) == {1e-3}


def test_the_command_lines_own_value_goes_first(command):
    command.records("select=weight_decay", top1=[1, 1, 1, 1, 90, 90])
    command.conclude("select=weight_decay")
    for word in ("protocol.methods.weight_decay=2e-4", "optim.weight_decay=2e-4"):
        status = command.status("optim=sgdm", word)
        assert set(decays(status.runs)) == {2e-4}
        assert [line for line in status.selected_values() if line.startswith("weight_decay")] == []


def test_a_later_selection_uses_the_choices_before_it(command):
    """rho is tuned by SAM at the weight decay that was selected."""
    command.records("select=weight_decay", top1=[1, 1, 1, 1, 90, 90])
    command.conclude("select=weight_decay")
    runs = command.plan("select=rho")
    optims = [run.settings.optim for run in runs]
    rho_and_decay = [(optim.sam.perturbation.rho, optim.base.weight_decay) for optim in optims]
    assert rho_and_decay == [(0.05, 1e-3)] * 2 + [(0.2, 1e-3)] * 2
    command.records("select=rho", top1=[1, 1, 2, 2])
    assert "selected: 0.2" in command.conclude("select=rho")[-1]
    assert {run.settings.optim.sam.perturbation.rho for run in command.plan("optim=llqr_sam")} == {0.2}
    assert len(command.files()) == 2


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"choice": 7}', '{"choice": "1e-4"}'])
def test_a_damaged_selection_is_one_sentence(command, content):
    command.records("select=weight_decay", top1=[90.0] * 6)
    command.conclude("select=weight_decay")
    (path,) = command.files()
    path.write_text(content)
    with pytest.raises(UsageError, match=f"{path} is not a selection: remove it"):
        command.plan()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["select=decay"], r"select=decay is not a selection of table=demo\. Choose from: weight_decay, rho"),
        (["select=rho", "table.selections=[]"], r"select=rho is not a selection of table=demo\. It has none\."),
        (["table.metric=bleu"], r"table.metric=bleu is not possible. Choose from: top1, val_bleu\."),
        (["select=rho", "optim=sam"], "optim=sam has no use with select=rho"),
        (["select=rho", "optim.rho=0.3"], "optim.rho=0.3 has no use with select=rho"),
        (["select=rho", "protocol.methods.rho=0.3"], "protocol.methods.rho=0.3 has no use"),
        (["select=rho", "dataset.label_noise=0.4"], "dataset.label_noise=0.4 has no use"),
        (["select=rho", "arch=resnet18"], "table=demo has no run with arch=resnet18"),
    ],
)
def test_a_wrong_select_is_one_sentence(command, words, message):
    with pytest.raises(UsageError, match=message):
        command.plan(*words)


def test_a_selection_needs_a_table():
    words = ["select=weight_decay"]
    with pytest.raises(UsageError, match=r"needs a table\. Choose one with table= from: 1, 10, 2"):
        plan(Command.of(*words))


def test_from_runs_to_choice(command, capsys):
    """Real runs of an epoch each; the second time nothing is trained, and SGDM of the table is finished already."""
    words = ("select=weight_decay", "protocol.epochs=1", "seed=0", "table.label_noise=[0.0]")
    assert launch(command.status(*words), command.asked.config) == 0
    chosen = command.conclude(*words)[-1]
    assert chosen.startswith("  selected: ")
    capsys.readouterr()
    assert launch(command.status(*words), command.asked.config) == 0
    assert "3 runs: 3 finished" in capsys.readouterr().err
    assert command.conclude(*words)[-1] == chosen
    assert command.status("optim=sgdm", *words[1:]).total() == "1 run: 1 finished"


def test_nothing_is_selected_from_runs_on_different_data(command):
    words = "select=weight_decay"
    for run, data in zip(command.plan(words), "aabaaa", strict=True):
        write_record(command.folder / "results", run, [90.0], data=data * 64)
    (heading, line) = command.conclude(words)
    assert heading.startswith("weight_decay for digits small_cnn")
    assert line.startswith("  not compared: the records of dataset=digits are of different data, aaaaaaaaaaaa (")
    assert not command.files()
