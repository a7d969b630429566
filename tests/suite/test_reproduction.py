"""The list of the reproduction: what it asks for, that it stops in time, and that it goes on where it stopped."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from llqr_sam.engine.record import Record, read_record
from llqr_sam.engine.trainer import Trainer
from llqr_sam.suite import attempt as attempting
from llqr_sam.suite import reproduction
from llqr_sam.suite.compose import compose_config
from llqr_sam.suite.errors import UsageError
from llqr_sam.suite.reproduction import Reproduction
from llqr_sam.suite.timings import measurements
from llqr_sam.suite.words import CONF
from tests.suite.plans import settings_of
from tests.suite.records import write_record

SCRIPT = CONF.parent / "scripts" / "reproduce_gpu.py"
TINY = ["device=cpu", "dataset=digits", "arch=small_cnn", "precision=default", "protocol.epochs=2"]
TINY += ["protocol.batch_size=432", "protocol.methods.interval=100", "optim.inner_steps=1"]


def places(folder: Path) -> list[str]:
    return [f"paths.results={folder}/results", f"paths.workspace={folder}/work"]


def records(folder: Path) -> dict[str, Record]:
    return {path.stem: read_record(path) for path in (folder / "results/runs/reproduction").glob("*.json")}


def test_the_list_is_the_issues():
    runs = [run for part in Reproduction().parts for run in part.runs]
    assert len(runs) == len({run.run_id for run in runs}) == 38, "each setting of an open question is in the run id"
    assert [run.settings.optim.name for run in runs[:4]] == ["sgdm", "sam", "llqr_sam", "llqr"]
    assert [run.settings.seed for run in runs[:30]] == [0] * 10 + [1] * 10 + [2] * 10
    for run in runs:
        protocol = run.settings.protocol
        assert (protocol.epochs, protocol.batch_size, protocol.schedule) == (200, 128, "cosine")
        assert (protocol.label_smoothing, protocol.augment, run.settings.optim.lr) == (0.0, True, 0.05)


def test_a_run_of_the_list_is_the_run_of_its_words():
    run = Reproduction(parts=[5]).parts[0].runs[0]
    words = "dataset=cifar100 precision=fast precision.deterministic=true optim=llqr_sam optim.norm=euclidean"
    assert run.run_id == settings_of(*words.split()).run_id


@pytest.mark.slow
def test_it_stops_when_the_time_is_up_and_ends_with_the_same_weights(tmp_path):
    whole, pieces = (Reproduction([*TINY, *places(tmp_path / name)], [5]) for name in ("whole", "pieces"))
    assert whole.run() == 0
    for _ in range(100):
        assert pieces.run(minutes=1e-5) == 0  # enough to begin, and for one step
        if len(records(tmp_path / "pieces")) == 3:
            break
        assert any("waiting" in line for line in pieces.lines())
    expected, found = records(tmp_path / "whole"), records(tmp_path / "pieces")
    assert len(expected) == 3
    assert {run: record.weights_sha256 for run, record in found.items()} == {
        run: record.weights_sha256 for run, record in expected.items()
    }
    assert all(record.resumes >= 4 for record in found.values())
    assert sum("finished: best" in line for line in pieces.lines()) == 3
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert pieces.run() == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before


def test_benchmarks_are_kept_once_done_and_begin_anew_when_cut_off(tmp_path, monkeypatch, capsys):
    bench = tmp_path / "bench.py"
    monkeypatch.setattr(reproduction, "BENCH", bench)
    monkeypatch.setattr(reproduction.Timings, "next_file", None)  # measured elsewhere
    listed = Reproduction(["device=cpu", "precision=default", *places(tmp_path)], [3])
    bench.write_text("import time\ntime.sleep(60)")
    assert listed.run(minutes=0.01) == 0
    assert "cut off" in capsys.readouterr().err
    assert sum("waiting" in line for line in listed.lines()) == 4
    bench.write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))")
    assert listed.run() == 0
    found = sorted((tmp_path / "results/bench").glob("*.json"))
    assert [path.name.partition("-")[0] for path in found] == ["resnet18", "scaling", "vit_base", "vit_large"]
    assert json.loads(found[0].read_text())[-3:] == ["--device", "cpu", "--json"]
    bench.write_text("raise SystemExit(1)")
    assert listed.run() == 0
    found[0].unlink()
    assert listed.run() == 1


def test_a_benchmark_longer_than_a_slice_does_not_stop_the_list(tmp_path, monkeypatch, capsys):
    """Cut off once it comes after the runs; with more time, in its turn."""
    bench, figures = tmp_path / "bench.py", tmp_path / "results/bench"
    monkeypatch.setattr(reproduction, "BENCH", bench)
    monkeypatch.setattr(reproduction, "LIST", tmp_path / "list.yaml")
    parts = [{"title": "Cost", "benches": {"long": ""}}, {"title": "Runs", "runs": ["optim=sgdm", "optim=sam"]}]
    reproduction.LIST.write_text(json.dumps({"words": ["logger=none"], "parts": parts}))
    bench.write_text("import time\ntime.sleep(60)")
    listed = Reproduction([*TINY[:-1], "protocol.epochs=1", *places(tmp_path)])

    def begun(minutes: float) -> list[str]:
        assert listed.run(minutes) == 0
        return re.findall(r"^(?:Cost|Runs)", capsys.readouterr().err, re.MULTILINE)

    assert begun(0.005) == ["Cost"]
    (mark,) = figures.iterdir()
    short = float(mark.read_text())
    assert begun(1e-5) == ["Runs"], "no more time than before"
    assert begun(0.02) == ["Cost"], "four times as much"
    longest = float(mark.read_text())
    assert 0 < short <= 0.3 < longest <= 1.2, "seconds of what was given, less what went by before it began"
    while len(records(tmp_path)) < 2:
        assert begun(0.005)[0] == "Runs"
    assert begun(0.005) == ["Cost"], "nothing else is left"
    assert float(mark.read_text()) == longest
    bench.write_text("print('{}')")
    assert listed.run() == 0
    assert [path.suffix for path in figures.iterdir()] == [".json"]


TIMES = "table=10 table.datasets=[cifar10] table.archs=[resnet18,vgg16_bn] arch.width=4 optim=llqr"
TIMES += " table.timing.batch=2 table.timing.rounds=1 table.timing.inner_steps=2"


def test_the_list_measures_table_10():
    """In a precision that its measurement uses whole, with the metric that the part names."""
    (times,) = [study for study in Reproduction(["device=cpu"], [3]).parts[0].studies if study.name == "table_10"]
    lines = list(times.lines())
    assert [line.partition("  ")[0] for line in lines] == [
        f"timing table_10, vit_{size}" for size in ("tiny", "small", "base", "large")
    ]
    assert times.words == ("table=10", "protocol.methods.structure=diagonal", "precision=bfloat16", "device=cpu")
    (elsewhere,) = Reproduction(["device=cuda:77"], [3]).parts[0].studies[-1:]
    assert "device=cuda:77" in next(elsewhere.lines())


@pytest.mark.slow
def test_networks_measured_are_kept_and_the_rest_begins_anew_when_cut_off(tmp_path, monkeypatch, capfd):
    """Another table of times, of two small networks; an earlier call has measured the first."""
    monkeypatch.setattr(reproduction, "LIST", tmp_path / "list.yaml")
    part = {"title": "Times", "timings": {"small": TIMES}}
    reproduction.LIST.write_text(json.dumps({"words": ["precision=deterministic"], "parts": [part]}))
    words = ["device=cpu", *places(tmp_path)]
    chosen = [*TIMES.split(), "arch=resnet18", "device=cpu", *places(tmp_path)[:1]]
    assert measurements(compose_config(chosen), chosen).measure() == 0
    (first,) = (tmp_path / "results/timings").iterdir()
    written = first.stat().st_mtime_ns
    listed = Reproduction(words)
    assert list(listed.lines())[1:] == [
        *(f"timing small, resnet18  measured: {first}", "timing small, vgg16_bn  not measured")
    ]
    assert listed.run(minutes=1e-3) == 0
    assert "small was cut off" in capfd.readouterr().err
    assert list(first.parent.glob("*.json")) == [first]
    assert listed.run() == 0
    (second,) = set(first.parent.iterdir()) - {first}
    assert f"vgg16_bn: measured: {second}" in capfd.readouterr().err
    assert list(listed.lines())[2] == f"timing small, vgg16_bn  measured: {second}"
    assert listed.run() == 0
    assert capfd.readouterr().err == "", "nothing is left"
    assert first.stat().st_mtime_ns == written


def test_what_failed_or_diverged_is_tried_again_when_asked_and_once_a_call(tmp_path, monkeypatch, capsys):
    """The list has each run in two parts: what fails in its first turn has no second."""
    monkeypatch.setattr(reproduction, "LIST", tmp_path / "list.yaml")
    part = {"title": "Two runs", "runs": ["optim=sgdm", "optim=sam"]}
    reproduction.LIST.write_text(json.dumps({"words": ["logger=none"], "parts": [part, part]}))
    words = [*TINY[:-1], "protocol.epochs=1", *places(tmp_path)]
    first = Reproduction(words).parts[0].runs[1]
    diverged = write_record(tmp_path / "results", first, [10.0], status="diverged")

    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(attempting, "execute", broken)
    assert Reproduction(words).run() == 1
    assert capsys.readouterr().err.count("failed: digits-small_cnn-sgdm-s0") == 1
    assert list(Reproduction(words).lines())[-1] == "runs that failed are left alone; retry=failed tries them again"
    assert Reproduction(words).run() == 0, "it would only fail again"
    assert capsys.readouterr().err == ""
    retried = Reproduction([*words, "retry=failed"])
    assert retried.run() == 1
    assert capsys.readouterr().err.count("boom") == 2, "each once"
    monkeypatch.undo()
    assert retried.run() == 0
    found = sorted((record.config["optim"]["name"], record.status) for record in records(tmp_path).values())
    assert found == [("sam", "diverged"), ("sam", "finished"), ("sgdm", "finished")]
    assert read_record(diverged).status == "diverged", "a record is kept"


def test_one_error_of_cuda_ends_the_call_and_the_next_goes_on(tmp_path, monkeypatch, capsys):
    """CUDA would refuse every run after it: they are as they were."""
    words = [*TINY, *places(tmp_path)]

    def refused(self: Trainer) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nand advice")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", refused)
        assert Reproduction(words, [5]).run() == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    assert line.endswith(
        "DeviceLost: CUDA error: an illegal memory access was encountered; the next run needs a new process"
    )
    assert len(list(tmp_path.rglob("failure.json"))) == 1
    assert Reproduction(words, [5]).run() == 0
    assert len(records(tmp_path)) == 2


def test_it_does_not_go_on_with_other_data_than_its_records(tmp_path):
    words = [*TINY, *places(tmp_path)]
    run = Reproduction(words, [5]).parts[0].runs[0]
    write_record(tmp_path / "results", run, [50.0], data="a" * 64)
    with pytest.raises(
        UsageError, match=f"^dataset=digits has the data .*, the records are of a{{12}} .{run.run_id}.: "
    ):
        Reproduction(words, [5]).run()
    with pytest.raises(UsageError, match=r"^dataset\.path=gone\.npz does not exist"):
        Reproduction([*words, "dataset.path=gone.npz"], [5]).run()


def test_a_precision_that_the_device_cannot_do_is_refused():
    with pytest.raises(UsageError, match="cuda_graphs=true needs a CUDA device, not cpu. Choose precision=default"):
        Reproduction(["device=cpu"]).run()


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
    done = reproduce(*TINY, *places(tmp_path), "parts=5", "minutes=1e-5", absent=("submitit", "wandb"))
    assert done.returncode == 0, done.stderr
    assert "the time is up" in done.stderr
    assert done.stdout.count("waiting") == 3


@pytest.mark.parametrize("word", ["dry_run=true", "status=true"])
def test_it_is_shown_and_not_begun(word, monkeypatch, capsys, tmp_path):
    """Without a GPU, which the list's precision needs to begin."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "parts=5", "device=cpu", *places(tmp_path), word])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    output = capsys.readouterr()
    assert (ended.value.code, output.err) == (0, "")
    assert output.out.count("waiting") == 3
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
