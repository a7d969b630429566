"""train.py, as it is typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.suite.plans import plan_of
from tests.suite.records import write_record

REPOSITORY = Path(__file__).resolve().parent.parent


def train(*words: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "train.py"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_dry_run_of_one_run():
    done = train("dry_run=true")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("llqr_sam-ngd s0  digits-small_cnn-llqr_sam-ngd-s0-")


@pytest.mark.slow
def test_dry_run_of_a_table_and_of_a_sweep(tmp_path):
    table = train("table=7", "dry_run=true", folder=tmp_path)
    assert table.stdout.endswith("15 runs: 15 missing\n")
    swept = train("-m", "optim=sam,sgdm", "seed=0,1", "dry_run=true", folder=tmp_path)
    assert swept.returncode == 0
    assert [line.partition("  ")[0].strip() for line in swept.stdout.splitlines()[:4]] == [
        "sam s0",
        "sam s1",
        "sgdm s0",
        "sgdm s1",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]  # nothing else is left behind


@pytest.mark.slow
def test_status_of_a_table_and_of_all(tmp_path):
    table = train("table=7", "status=true", folder=tmp_path)
    assert table.stdout.splitlines()[-2] == "15 runs: 15 missing"
    everything = train("status=true", folder=tmp_path)
    assert (everything.returncode, everything.stdout) == (0, "no run has begun\n")


@pytest.mark.slow
def test_status_of_the_run_that_words_name(tmp_path):
    """Where a table has begun that has no such run."""
    runs = plan_of("table=demo", "optim=sgdm")
    for run in runs:
        write_record(tmp_path / "results", run, [90.0])
    for word, name in (("seed=7", "digits-small_cnn-llqr_sam-ngd-s7-"), ("dataset=cifar100", "cifar100-resnet18-")):
        done = train("status=true", word, folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        line, total, _ = done.stdout.splitlines()
        assert line.startswith(f"llqr_sam-ngd s{word[5:] if word.startswith('seed') else 0}  {name}")
        assert line.endswith("  missing")
        assert total == "1 run: 1 missing"
    table = train("status=true", "optim=sgdm", folder=tmp_path)
    assert table.stdout.splitlines()[0].startswith("table=demo: ")
    assert table.stdout.count("  finished: ") == len(runs)


def test_status_of_a_sweep(tmp_path):
    done = train("-m", "optim=sam,sgdm", "seed=0,1", "status=true", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:2] for line in done.stdout.splitlines()[:4:3]] == [["sam", "s0"], ["sgdm", "s1"]]
    assert done.stdout.splitlines()[4] == "4 runs: 4 missing"
    assert [line.split() for line in done.stdout.splitlines()[-2:]] == [
        ["sam", "0", "-", "-", "-", "-", "2", "missing"],
        ["sgdm", "0", "-", "-", "-", "-", "2", "missing"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("optim=llqr_sma", "error: optim=llqr_sma is not an optimizer here. Choose from: adam, "),
        ("optim.rho=-1", "error: optim.rho=-1.0 must be >= 0."),
        ("optim.rho=abc", "error: optim.rho=abc must be a number, not of type str."),
        ("optim.nothing=1", "error: unknown key optim.nothing. "),
        ("arch=resnet50 dataset=digits", "error: arch=resnet50 takes images of 224x224, dataset=digits has 8x8. "),
        ("-m seed=0,-1", "error: seed=-1 must be "),
        ("status=true seed=-1", "error: seed=-1 must be "),
        ("-m table=10 arch=vit_tiny,vit_small launch=slurm", "error: launch=slurm has no use with table=10: it times"),
        ("launch=cluster", "error: launch=cluster is not a way to launch here. Choose from: inline, local, slurm"),
        ("launch=local launch.workers=0", "error: launch.workers=0 must be >= 1."),
        ("launch.workers=2", "error: launch.workers=2 has no use with launch=inline. It is for launch=local."),
        ("retry=yes", "error: retry=yes is not possible. Choose from: null, failed."),
        ("--fast", "error: unrecognized arguments: --fast."),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words, line, tmp_path):
    done = train(*words.split(), folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_sweep_trains_and_the_second_time_finds_its_records(tmp_path):
    words = ("-m", "optim=sgdm", "seed=0,1", "protocol.epochs=1", "logger=none", "device=cpu")
    first = train(*words, folder=tmp_path)
    assert first.returncode == 0, first.stderr
    records = sorted(tmp_path.glob("results/runs/adhoc/*.json"))
    assert len(records) == 2
    assert "[2/2] sgdm s1" in first.stderr
    second = train(*words, folder=tmp_path)
    assert "sgdm    2" in second.stdout
    assert second.stdout == first.stdout
    assert sorted(tmp_path.glob("results/runs/adhoc/*.json")) == records


@pytest.mark.slow
def test_a_sweep_shares_one_pool_of_workers(tmp_path):
    words = ("-m", "optim=sgdm", "seed=0,1", "protocol.epochs=1", "logger=none", "device=cpu")
    done = train(*words, "launch=local", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 workers" in done.stderr
    assert "[2/2] sgdm s" in done.stderr
    assert len(list(tmp_path.glob("results/runs/adhoc/*.json"))) == 2
    assert train(*words, "launch=local", "dry_run=true", folder=tmp_path).stdout.endswith("2 runs: 2 finished\n")


@pytest.mark.slow
def test_hydras_own_launcher_trains_a_sweep(tmp_path):
    """And what goes wrong in its processes reaches the command."""
    words = ("-m", "hydra/launcher=submitit_local", "protocol.epochs=1", "logger=none", "device=cpu")
    done = train(*words, "optim=sam", "optim.rho=0.05,0.2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("results/runs/adhoc/*.json"))) == 2
    rows = sorted(line[1:].split()[:3] for line in done.stdout.splitlines()[-2:])
    assert rows == [["sam", "0.05", "1"], ["sam", "0.2", "1"]]
    said = "".join(path.read_text() for path in tmp_path.rglob("*_log.err"))
    assert "sam rho=0.05 s0: best top-1 " in said, "a run is named by what varies in its own process too"
    mistaken = train(*words, "dataset=cifar10", "arch=resnet18", "optim=sgdm", "seed=0,1", folder=tmp_path)
    assert mistaken.returncode == 2
    assert mistaken.stderr.splitlines()[-1].startswith("error: ")
    assert "prepare_data.py cifar10" in mistaken.stderr


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_a_sweep(tmp_path):
    """A preconditioner minibatch larger than the data is found by the engine, in LLQR's run alone."""
    words = ("protocol.epochs=1", "logger=none", "device=cpu", "protocol.methods.refresh_batch=100000")
    done = train("-m", "optim=llqr,sgdm", *words, folder=tmp_path)
    assert done.returncode == 1
    assert "failed: llqr-ngd s0 (digits" in done.stderr
    assert "Traceback" not in done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["llqr-ngd", "0", "-", "-", "-", "-", "1", "failed"] in rows
    assert any(row[:2] == ["sgdm", "1"] for row in rows)


@pytest.mark.slow
def test_words_that_choose_runs_of_a_table_need_no_m(tmp_path):
    done = train("seed=0,1", "table=demo", "optim=glob(*sam)", "dry_run=true", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith("sam s0 ")
    assert done.stdout.endswith("10 runs: 10 missing\n")
    for words in (("optim=sam,llqr_sam",), ("table=demo", "optim.rho=0.1,0.2")):
        done = train(*words, folder=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "add -m to run each of the values" in done.stderr


@pytest.mark.slow
def test_optuna_chooses_values_by_the_score(tmp_path):
    """Runs that diverge are bad values. Its pins are those of the dev extra."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs hydra-optuna-sweeper")
    words = ("-m", "hydra/sweeper=optuna", "optim=sam", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1")
    grid = "hydra/sweeper/sampler=grid"  # which draws each value once
    few = ("protocol.epochs=1", "logger=none", "device=cpu")
    done = train(*words, grid, *few, "optim.lr=choice(0.05,1e6)", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "sam lr=1e+06 s0: diverged: " in done.stderr
    assert "optim.lr: 0.05" in (tmp_path / "outputs" / "optimization_results.yaml").read_text()
    done = train(*words, *few, "optim.rho=interval(0.05,0.1)", "hydra.sweeper.sampler.seed=1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    best = max(line.split()[4] for line in done.stdout.splitlines() if line.startswith("*  sam"))
    found = (tmp_path / "outputs" / "optimization_results.yaml").read_text()
    assert f"best_value: {float(best):g}" in found


@pytest.mark.slow
def test_nothing_is_shown_of_what_a_sweeper_has_not_chosen(tmp_path):
    done = train("-m", "hydra/sweeper=optuna", "optim.rho=interval(0.01,0.4)", "dry_run=true", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    problem = "has no use with hydra/sweeper=optuna: it chooses each run by the scores before it."
    assert done.stderr == f"error: dry_run=true {problem}\n"


@pytest.mark.slow
def test_help_that_nobody_reads_and_completion(tmp_path):
    piped = ["bash", "-o", "pipefail", "-c", '"$1" train.py --help | true', "bash", sys.executable]
    done = subprocess.run(piped, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) in [(141, ""), (0, "")]  # 0: it was quicker than the pipe's end
    done = train("-sc", "install=bash", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "complete -o nospace" in done.stdout


@pytest.mark.slow
def test_a_dry_run_says_what_a_launch_would_refuse(tmp_path):
    slurm = train("launch=slurm", "launch.gpus=2", "dry_run=true", folder=tmp_path)
    assert (slurm.returncode, slurm.stdout) == (2, "")
    assert "launch.array_parallelism=2" in slurm.stderr
    slurm = train("dataset=cifar10", "optim=sgdm", "launch=slurm", "launch.time=90", "dry_run=true", folder=tmp_path)
    lines = slurm.stdout.splitlines()
    assert lines[1:4] == [
        "1 run: 1 missing",
        "launch=slurm queues 1 job, of which 1 may run at once",
        "with launch.profile=generic each asks for",
    ]
    assert any("90" in line for line in lines[4:])
    assert "prepare_data.py cifar10" in lines[-1]
    inline = train("dataset=cifar10", "arch=timm", "arch.model=convnext_ato", "dry_run=true", folder=tmp_path)
    assert "convnext_atto" in inline.stdout.splitlines()[-1]


def test_the_entry_point_is_short():
    assert len((REPOSITORY / "train.py").read_text().splitlines()) < 100
