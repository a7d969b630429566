"""Lists of steps: what they ask for, that they stop in time, that they go on where they stopped, whatever fails."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llqr_sam.engine.records.record import Record, read_record
from llqr_sam.repository import CONF
from llqr_sam.studies.gpu_window import steps
from llqr_sam.studies.gpu_window.step_list import StepList
from llqr_sam.studies.gpu_window.steps import Finished, StepFailed, Training
from llqr_sam.studies.table_10.networks import measure_missing, networks_here
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.run.run_folder import note_failure
from tests.suite.plans import plan_of, settings_of
from tests.suite.records import write_record

REPRODUCTION = CONF / "reproduction.yaml"
SCRIPT = CONF.parent / "scripts" / "reproduce_gpu.py"
TINY = ["device=cpu", "dataset=digits", "arch=small_cnn", "precision=default", "protocol.epochs=2"]
TINY += ["protocol.batch_size=432", "protocol.methods.interval=100", "optim.inner_steps=1"]


class Scripted:
    """Ends runs at once: as ``outcomes`` say by optimizer, else with a record."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.begun: list[str] = []

    def carry_out(self, step: Training, seconds: float, signals: Sequence[int]) -> str:
        name, folder = step.run.settings.optim.name, Path(step.config.paths.workspace) / step.run.run_id
        self.begun.append(name)
        if self.outcomes.get(name) == "failed":
            note_failure(step.run.run_id, folder, RuntimeError("boom"))
            raise StepFailed("RuntimeError: boom")
        if self.outcomes.get(name) == "cut":
            return f"{step.name} was cut off: the same command continues it"
        write_record(Path(step.config.paths.results), step.run, [50.0])
        return "finished"


@pytest.fixture
def scripted(monkeypatch) -> Scripted:
    found = Scripted()
    monkeypatch.setattr(Training, "carry_out", lambda *arguments: found.carry_out(*arguments))
    return found


def places(folder: Path) -> list[str]:
    return [f"paths.results={folder}/results", f"paths.workspace={folder}/work"]


def records(folder: Path, name: str = "reproduction") -> dict[str, Record]:
    return {path.stem: read_record(path) for path in (folder / "results/runs" / name).glob("*.json")}


def written(folder: Path, *parts: dict[str, object], words: tuple[str, ...] = ("logger=none",)) -> Path:
    """A list of one's own."""
    path = folder / "reproduction.yaml"
    path.write_text(json.dumps({"words": list(words), "parts": parts}))
    return path


def script(folder: Path, code: str) -> str:
    """A script for an output, and the command that runs it."""
    (folder / "script.py").write_text(code)
    return str(folder / "script.py")


def test_the_list_is_the_issues():
    runs = [training.run for part in StepList(REPRODUCTION).parts for training in part.trainings]
    assert len(runs) == len({run.run_id for run in runs}) == 38, "each setting of an open question is in the run id"
    assert [run.settings.optim.name for run in runs[:4]] == ["sgdm", "sam", "llqr_sam", "llqr"]
    assert [run.settings.seed for run in runs[:30]] == [0] * 10 + [1] * 10 + [2] * 10
    for run in runs:
        protocol = run.settings.protocol
        assert (protocol.epochs, protocol.batch_size, protocol.schedule) == (200, 128, "cosine")
        assert (protocol.label_smoothing, protocol.augment, run.settings.optim.base.lr) == (0.0, True, 0.05)


def test_a_run_of_the_list_is_the_run_of_its_words():
    run = StepList(REPRODUCTION, ["parts=5"]).parts[0].trainings[0].run
    words = "dataset=cifar100 precision=fast precision.deterministic=true optim=llqr_sam optim.norm=euclidean"
    assert run.run_id == settings_of(*words.split()).run_id
    assert run.folder == "reproduction"


def test_the_runs_of_a_table_are_the_tables(tmp_path):
    """With its own words; those of table. reach no other run."""
    path = written(tmp_path, {"title": "Runs", "table": "epochs_15", "runs": ["optim=sgdm"]}, words=("seed=1",))
    *of_table, alone = StepList(path, ["device=cpu"]).parts[0].trainings
    assert [training.run for training in of_table] == list(plan_of("table=epochs_15"))
    assert {(t.run.folder, t.run.settings.protocol.epochs) for t in of_table} == {("epochs_15", 15)}
    assert alone.run.settings == settings_of("optim=sgdm", "seed=0")
    words = ["dataset=digits", "arch=small_cnn", "table.datasets=[digits]", "table.archs=[small_cnn]"]
    small = StepList(path, [*words, "precision=default", "protocol.epochs=1"]).parts[0].trainings
    assert {training.run.cell.dataset for training in small} == {"digits"}
    assert {training.run.settings.protocol.epochs for training in small} == {1}


@pytest.mark.slow
def test_it_stops_when_the_time_is_up_and_ends_with_the_same_weights(tmp_path):
    words = [*TINY[:4], "protocol.epochs=40", *TINY[5:], "parts=5"]
    whole, pieces = (StepList(REPRODUCTION, [*words, *places(tmp_path / name)]) for name in ("whole", "pieces"))
    assert whole.run() == 0
    calls = 0
    while len(records(tmp_path / "pieces")) < 3:
        assert pieces.run(minutes=0.1 * 1.2**calls) == 0  # sooner or later it is enough to begin, and not to end
        calls += 1
    expected, found = records(tmp_path / "whole"), records(tmp_path / "pieces")
    assert len(expected) == 3
    assert {run: record.weights_sha256 for run, record in found.items()} == {
        run: record.weights_sha256 for run, record in expected.items()
    }
    assert sum(record.resumes for record in found.values()) >= 1
    assert sum("finished: best" in line for line in pieces.lines()) == 3
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert pieces.run() == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before


def test_outputs_are_kept_once_done_and_begin_anew_when_cut_off(tmp_path, capsys):
    command = script(tmp_path, "import sys, time\nprint('half', flush=True)\ntime.sleep(60)")
    path = written(tmp_path, {"title": "Cost", "outputs": {"one": f"{command} --device {{device}} --json {{words}}"}})
    listed = StepList(path, ["device=cpu", *places(tmp_path)])
    assert listed.run(minutes=0.03) == 0
    assert "one was cut off" in capsys.readouterr().err
    assert list(listed.lines()) == ["Cost", "output one  missing"]
    (part,) = (tmp_path / "results/bench").glob("*.part")
    assert part.read_text() == "half\n", "what it has said is not lost"
    script(tmp_path, "import json, sys\nprint(json.dumps(sys.argv[1:]))")
    assert listed.run() == 0
    (found,) = (tmp_path / "results/bench").glob("*.json")
    assert found.name.startswith("one-")
    assert json.loads(found.read_text())[:4] == ["--device", "cpu", "--json", "logger=none"]
    assert not list(found.parent.glob("*.part"))
    script(tmp_path, "import sys\nprint('why', file=sys.stderr)\nraise SystemExit(3)")
    assert listed.run() == 0, "it is done"
    found.unlink()
    assert listed.run() == 1
    assert re.search(r"^failed: one: exit status 3: why \(.*\.log\)$", capsys.readouterr().err, re.MULTILINE)
    assert "why" in found.with_name(f"{found.name}.log").read_text(), "the reason is among what it leaves"


def test_after_each_step_what_it_left_can_be_saved(tmp_path):
    path = written(tmp_path, {"title": "Two", "outputs": dict.fromkeys(["a", "b"], script(tmp_path, "print(1)"))})
    seen: list[list[str]] = []
    bench = tmp_path / "results/bench"
    StepList(path, ["device=cpu", *places(tmp_path)]).run(
        after_step=lambda: seen.append(sorted(file.name[0] for file in bench.glob("*.txt")))
    )
    assert seen == [["a"], ["a", "b"]]


def test_a_step_has_its_own_limit_and_what_hangs_or_fails_leaves_the_others_alone(
    scripted, tmp_path, capsys, monkeypatch
):
    hangs, works = tmp_path / "hangs.py", tmp_path / "works.py"
    hangs.write_text("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)")
    works.write_text("print(1)")
    path = written(
        tmp_path,
        {"title": "Hangs", "seconds": 0.5, "outputs": {"hangs": str(hangs), "breaks": f"{works}.gone"}},
        {"title": "Works", "outputs": {"works": str(works)}, "runs": ["optim=sgdm", "optim=sam", "optim=f_sam"]},
    )
    scripted.outcomes = {"sgdm": "failed", "sam": "cut"}
    listed = StepList(path, [*TINY[:-1], *places(tmp_path)])
    monkeypatch.setattr(steps, "GRACE", 0.2)
    assert listed.run(minutes=5) == 1
    said = capsys.readouterr().err
    assert "hangs was cut off" in said
    assert "failed: breaks: exit status 2" in said
    assert scripted.begun == ["sgdm", "sam", "f_sam"]
    assert [file.read_text() for file in (tmp_path / "results/bench").glob("works-*.txt")] == ["1\n"]


def test_an_output_longer_than_a_slice_does_not_stop_the_list(scripted, tmp_path, capsys):
    """What was begun and is not done comes after everything else."""
    command = script(tmp_path, "import time\ntime.sleep(60)")
    path = written(
        tmp_path,
        {"title": "Cost", "outputs": {"long": command}},
        {"title": "Runs", "runs": ["optim=sgdm", "optim=sam"]},
    )
    scripted.outcomes = {"sgdm": "cut", "sam": "cut"}
    listed = StepList(path, [*TINY[:-1], *places(tmp_path)])

    def begun(minutes: float) -> list[str]:
        assert listed.run(minutes) == 0
        return re.findall(r"^(?:Cost|Runs)", capsys.readouterr().err, re.MULTILINE)

    assert begun(0.005) == ["Cost"]
    assert begun(1e-9) == ["Runs"]
    scripted.outcomes.clear()
    assert begun(0.005)[:2] == ["Runs", "Runs"]
    assert begun(0.005) == ["Cost"], "nothing else is left"
    script(tmp_path, "print('{}')")
    assert begun(1.0) == ["Cost"]
    assert len(list((tmp_path / "results/bench").glob("*.txt"))) == 1
    assert begun(1.0) == []


TIMES = "table=10 table.datasets=[cifar10] table.archs=[resnet18,vgg16_bn] arch.width=4 optim=llqr"
TIMES += " table.timing.batch=2 table.timing.rounds=1 table.timing.inner_steps=10"


def test_the_list_measures_table_10():
    """In a precision that its measurement uses whole, with the metric that the part names."""
    given = ["device=cpu", "table.timing.rounds=1", "table.archs=[vgg16_bn]", "seed=3", "parts=3"]
    by_name = {step.name: step for step in StepList(REPRODUCTION, given).parts[0].steps}
    command = by_name["table_10"].command
    assert command[0] == "train.py"
    assert {"protocol.methods.structure=diagonal", "precision=bfloat16"} < set(command)
    assert {"device=cpu", "table.timing.rounds=1", "table.archs=[vit_tiny,vit_small,vit_base]"} < set(command)
    assert not {"table.archs=[vgg16_bn]", "seed=3"} & set(command)
    assert "table.archs=[vit_large]" in by_name["table_10_large"].command


@pytest.mark.slow
def test_networks_measured_are_kept_and_the_rest_begins_anew_when_cut_off(tmp_path, capfd):
    """Another table of times, of two small networks; an earlier call has measured the first."""
    outputs = {"small": f"train.py {TIMES} {{where}}"}
    path = written(tmp_path, {"title": "Times", "outputs": outputs}, words=("precision=deterministic",))
    words = ["device=cpu", *places(tmp_path)]
    chosen = [*TIMES.split(), "arch=resnet18", "device=cpu", *places(tmp_path)[:1]]
    assert measure_missing(networks_here(Command.of(*chosen))) == 0
    (first,) = (tmp_path / "results/timings").iterdir()
    written_at = first.stat().st_mtime_ns
    listed = StepList(path, words)
    assert list(listed.lines()) == ["Times", "output small  missing"]
    assert listed.run(minutes=1e-3) == 0
    assert "small was cut off" in capfd.readouterr().err
    assert list(first.parent.glob("*.json")) == [first]
    assert listed.run() == 0
    assert len(set(first.parent.glob("*.json")) - {first}) == 1
    (table,) = (tmp_path / "results/bench").glob("small-*.txt")
    assert list(listed.lines())[1] == f"output small  done: {table}"
    capfd.readouterr()
    assert listed.run() == 0
    assert capfd.readouterr().err == "", "nothing is left"
    assert first.stat().st_mtime_ns == written_at


def test_what_failed_or_diverged_is_tried_again_when_asked_and_once_a_call(scripted, tmp_path, capsys):
    """The list has each run in two parts: what fails in its first turn has no second."""
    part = {"title": "Two runs", "runs": ["optim=sgdm", "optim=sam"]}
    path = written(tmp_path, part, part)
    words = [*TINY[:-1], "protocol.epochs=1", *places(tmp_path)]
    first = StepList(path, words).parts[0].trainings[1].run
    diverged = write_record(tmp_path / "results", first, [10.0], status="diverged")
    scripted.outcomes = {"sgdm": "failed", "sam": "failed"}
    listed = StepList(path, words)
    assert listed.run() == 1
    assert capsys.readouterr().err.count("failed: digits-small_cnn-sgdm-s0") == 1
    assert list(listed.lines())[-1] == "runs that failed are left alone; retry=failed tries them again"
    assert listed.run() == 0, "it would only fail again"
    assert capsys.readouterr().err == ""
    assert StepList(path, [*words, "retry=failed"]).run() == 1
    assert capsys.readouterr().err.count("boom") == 2, "each once"
    scripted.outcomes.clear()
    assert StepList(path, [*words, "retry=failed"]).run() == 0
    assert read_record(diverged).status == "diverged", "a record is kept"


@pytest.mark.slow
def test_a_run_that_fails_or_is_killed_leaves_its_reason_and_the_next_goes_on(tmp_path, capsys):
    """Real processes: the first run is given no archive, the second loses its process."""
    (tmp_path / "bad.npz").write_text("no archive")
    runs = [f"optim=sgdm dataset=cifar10 arch=resnet18 dataset.path={tmp_path}/bad.npz", "optim=sam", "optim=f_sam"]
    path = written(tmp_path, {"title": "Runs", "runs": runs}, words=(*TINY[:-1], "logger=none"))
    listed = StepList(path, places(tmp_path))
    bad, killed, good = (training.run for training in listed.parts[0].trainings)
    run = steps.run_python

    def kill_second(arguments: list[str], *others: Any) -> Finished:
        if killed.run_id in arguments[-1]:
            arguments = ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
        return run(arguments, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "run_python", kill_second)
        assert listed.run() == 1
    said = capsys.readouterr().err
    assert f"failed: {bad.run_id}: ValueError: dataset.path={tmp_path}/bad.npz is not an .npz" in said
    assert f"failed: {killed.run_id}: its process ended with SIGKILL" in said
    assert set(records(tmp_path)) == {good.run_id}
    assert {"failure.json", "log.txt"} <= {file.name for file in (tmp_path / "work" / bad.run_id).iterdir()}
    assert listed.run() == 0
    assert set(records(tmp_path)) == {good.run_id, killed.run_id}, "what failed is left alone, what was lost is not"


def test_it_does_not_go_on_with_other_data_than_its_records(scripted, tmp_path):
    words = [*TINY, *places(tmp_path), "parts=5"]
    run = StepList(REPRODUCTION, words).parts[0].trainings[0].run
    write_record(tmp_path / "results", run, [50.0], data="a" * 64)
    with pytest.raises(
        UsageError, match=f"^dataset=digits has the data .*, the records are of a{{12}} .{run.run_id}.: "
    ):
        StepList(REPRODUCTION, words).run()
    with pytest.raises(UsageError, match=r"^dataset\.path=gone\.npz has no use with dataset=digits"):
        StepList(REPRODUCTION, [*words, "dataset.path=gone.npz"]).run()


def test_a_precision_that_the_device_cannot_do_is_refused():
    with pytest.raises(UsageError, match="cuda_graphs=true needs a CUDA device, not cpu. Choose precision=default"):
        StepList(REPRODUCTION, ["device=cpu"]).run()


@pytest.mark.parametrize("word", ["minuts=3", "part=1"])
def test_its_own_words_are_among_the_keys(word, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), word])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    error = capsys.readouterr().err
    assert " minutes, optim, parts, paths, " in error
    assert error.endswith(f"(did you mean {'minutes' if 'min' in word else 'parts'}?)\n")


def reproduce(*words: str, absent: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """scripts/reproduce_gpu.py in a Python that lacks some packages."""
    code = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({absent!r}))
sys.argv[1:] = {list(words)!r}
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    environment = os.environ | {"PYTHONPATH": str(CONF.parent)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_it_needs_neither_submitit_nor_wandb(tmp_path):
    """On an image that has torch and a folder of wheels (docs/reproduction.md)."""
    done = reproduce(*TINY, *places(tmp_path), "parts=5", absent=("submitit", "wandb"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished: best") == 3


@pytest.mark.parametrize("word", ["dry_run=true", "status=true"])
def test_it_is_shown_and_not_begun(word, monkeypatch, capsys, tmp_path):
    """Without a GPU, which the list's precision needs to begin."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "parts=5", "device=cpu", *places(tmp_path), word])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    output = capsys.readouterr()
    assert (ended.value.code, output.err) == (0, "")
    assert output.out.count("missing") == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("minutes=soon", "error: minutes=soon must be a number > 0."),
        ("minutes=0", "error: minutes=0 must be a number > 0."),
        ("parts=9", "error: parts=9 is not possible: the list has parts 1 to 5."),
        ("parts=a", "error: parts=a must be numbers of parts, like parts=1,3."),
        ("table=2", "error: table=2 has no use here: the list names its runs."),
        ("devices=4", "error: devices=4 has no use here: a run has one. Use devices=1."),
        ("launch=local", "error: launch=local has no use here: runs take turns. Use launch=inline."),
        ("launch.workers=4", "error: launch.workers=4 has no use with launch=inline. It is for launch=local."),
        ("retry=all", "error: retry=all is not possible. Choose from: null, failed."),
        ("minute=3", "error: unknown key minute."),
        ("minutes:3", "error: minutes:3 is not of the form key=value."),
        ("protocol.minutes=3", "error: unknown key protocol.minutes. Keys in protocol: augment, "),
    ],
)
def test_a_mistake_is_one_line_and_status_2(word, line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), word])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    output = capsys.readouterr()
    assert (ended.value.code, output.out) == (2, "")
    assert output.err.startswith(line)
    assert output.err.count("\n") == 1
