from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import pytest

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.launch.launch import launch
from llqr_sam.suite.launch.sweep import of_one_table, pooled_sweep, score, swept_keys, with_direction
from llqr_sam.suite.plan.plan import plan
from tests.suite.jobs import words_in
from tests.suite.records import status_of, write_record


def test_a_sweep_is_checked_to_its_end_before_it_starts():
    assert pooled_sweep(["seed=0,-1"]) is None  # no -m: Hydra's to judge
    with pytest.raises(UsageError, match="seed=-1"):
        pooled_sweep(["-m", "seed=0,-1"])


def test_sweeps_with_words_of_hydras_own_are_hydras():
    assert pooled_sweep(["-m", "hydra/launcher=submitit_slurm", "seed=0,1"]) is None
    assert pooled_sweep(["-m", "hydra/sweeper=optuna", "optim.rho=interval(0.05,0.4)"]) is None
    assert pooled_sweep(["-m", "device=cpu,cuda", "seed=0,1"]) is None  # over where, not what


def test_a_configuration_is_of_one_run():
    with pytest.raises(UsageError, match="--cfg and --info show the configuration of one run"):
        pooled_sweep(["-m", "--cfg", "job", "seed=0,1"])


def test_an_interval_needs_a_sweeper_that_chooses():
    with pytest.raises(
        UsageError, match=r"interval\(0.05,0.4\) needs a sweeper that chooses values: add hydra/sweeper"
    ):
        pooled_sweep(["-m", "optim.rho=interval(0.05,0.4)"])
    with pytest.raises(UsageError, match="hydra/sweeper=optuna has no use with launch=local, which queues"):
        pooled_sweep(["-m", "hydra/sweeper=optuna", "optim.rho=interval(0.05,0.4)", "launch=local"])


@pytest.mark.parametrize("launcher", ["inline", "local", "slurm"])
def test_launchers_get_all_runs_at_once(launcher):
    pooled = pooled_sweep(["-m", "optim=sgdm,sam", "seed=0,1", f"launch={launcher}", "protocol.epochs=2"])
    assert pooled is not None
    assert pooled[1].config.launch.name == launcher
    assert [(run.cell.method, run.settings.seed) for run in pooled[0]] == [
        ("sgdm", 0),
        ("sgdm", 1),
        ("sam", 0),
        ("sam", 1),
    ]
    assert len({run.run_id for run in pooled[0]}) == 4


@pytest.mark.parametrize("look", ["status=true", "dry_run=true"])
@pytest.mark.parametrize("launcher", ["inline", "local", "slurm"])
def test_a_sweep_that_is_looked_at_is_one_list(look, launcher):
    pooled = pooled_sweep(["-m", "optim=sgdm,sam", "seed=0,1", f"launch={launcher}", look])
    assert pooled is not None
    assert [(run.cell.method, run.settings.seed) for run in pooled[0]] == [
        *(("sgdm", 0), ("sgdm", 1), ("sam", 0), ("sam", 1))
    ]


def test_a_run_is_listed_once():
    """Where it is trained is not what it is, and tables share runs."""
    pooled = pooled_sweep(["-m", "device=cpu,cuda", "seed=0", "status=true"])
    assert pooled is not None
    assert [run.settings.seed for run in pooled[0]] == [0]
    pooled = pooled_sweep(["-m", "table='2','7'", "arch=resnet18", "seed=0", "status=true"])
    assert pooled is not None
    assert len({run.run_id for run in pooled[0]}) == len(pooled[0]) == 8  # seven, and one that Table 2 has not


@pytest.mark.parametrize(
    "words",
    [
        ["seed=0,1", "status=true,false"],
        ["seed=0", "paths.results=a,b", "status=true"],
        ["table='2'", "arch=resnet18", "select=weight_decay,null", "status=true"],
        ["table='10'", "arch=vit_tiny,vit_small", "status=true"],
    ],
)
def test_what_is_not_one_list_is_hydras(words):
    assert pooled_sweep(["-m", *words]) is None


@pytest.mark.parametrize("launcher", ["local", "slurm"])
def test_a_table_of_times_is_not_trained(launcher):
    with pytest.raises(UsageError, match=f"launch={launcher} has no use with table=10: it times this machine"):
        pooled_sweep(["-m", "table='10'", "arch=vit_tiny,vit_small", f"launch={launcher}"])
    with pytest.raises(UsageError, match="has no use with table=10"):
        pooled_sweep(["-m", "table='7','10'", f"launch={launcher}"])


def test_tables_can_be_swept_over():
    pooled = pooled_sweep(["-m", "table='7','8'", "launch=slurm"])
    assert pooled is not None
    assert {run.folder for run in pooled[0]} == {"table_07", "table_08"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["launch=local", "device=cpu,cuda"], "device=cpu,cuda cannot be swept over with launch=local, which trains"),
        (["launch=inline,slurm"], "launch=inline,slurm cannot be swept over with launch=slurm, which trains"),
        (
            ["launch=slurm", "hydra/launcher=submitit_slurm"],
            "submitit_slurm has no use with launch=slurm, which",
        ),
    ],
)
def test_runs_that_cannot_be_launched_together_are_refused(words, sentence):
    with pytest.raises(UsageError, match=sentence):
        pooled_sweep(["-m", "seed=0,1", *words])


def test_words_that_choose_runs_of_a_table_are_one_command():
    command = of_one_table(["seed=0,1", "optim=sam,sgdm", "table='2'", "arch=resnet18"])
    assert command is not None
    assert [(run.cell.method, run.settings.seed) for run in plan(command)] == [
        *(("sgdm", 0), ("sgdm", 1), ("sam", 0), ("sam", 1))
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["seed=0,1"],  # no table
        ["seed=0", "table='2'"],  # Hydra's own business
        ["optim.rho=0.1,0.2", "table='2'"],  # no choice among its runs
        ["-m", "seed=0,1", "table='2'"],
    ],
)
def test_what_needs_m_is_not(words):
    assert of_one_table(words) is None


def test_the_score_of_a_job(tmp_path):
    """Of a finished run its best; of one that diverged the worst there is; of a table's runs the mean."""
    command = Command.of(*words_in(tmp_path, "table=demo", "optim=sgdm", "table.seeds=[0,1,2]"))
    first, second, _ = runs = plan(command)
    assert score(command) == 0.0
    write_record(tmp_path / "results", first, [90.0, 80.0])
    write_record(tmp_path / "results", second, [99.0], status="diverged")
    assert score(command) == pytest.approx(30.0)
    assert score(command.with_words("seed=0")) == 90.0
    assert score(command.with_words("seed=1")) == 0.0
    assert score(command.with_words("dry_run=true")) is None
    assert len(runs) == 3


def test_optunas_direction_is_that_of_the_score(monkeypatch):
    monkeypatch.setattr("llqr_sam.suite.launch.sweep.version", lambda package: "1.3.0")
    words = ["-m", "hydra/sweeper=optuna", "optim.rho=interval(0.05,0.4)"]
    assert with_direction(words) == [*words, "hydra.sweeper.direction=maximize"]
    given = [*words, "hydra.sweeper.direction=minimize"]
    assert with_direction(given) == given
    assert with_direction(["-m", "seed=0,1"]) == ["-m", "seed=0,1"]
    assert swept_keys(words) == ("optim.rho",)
    with pytest.raises(UsageError, match="has no use without -m"):
        with_direction(words[1:])


def test_optuna_that_is_not_installed_is_one_line(monkeypatch):
    def absent(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("llqr_sam.suite.launch.sweep.version", absent)
    with pytest.raises(UsageError, match="optuna is not installed. Use: pip install hydra-optuna-sweeper"):
        with_direction(["-m", "hydra/sweeper=optuna", "optim.rho=interval(0.05,0.4)"])


def test_a_job_of_a_sweeper_fails_as_one_of_many(tmp_path, capsys):
    """In one line, and the sweeper goes on; its label has what is swept over."""
    command = Command.of(*words_in(tmp_path, "optim=llqr", "protocol.methods.refresh_batch=100000"))
    status = replace(status_of(plan(command), tmp_path / "results", tmp_path / "work"), swept=("optim.interval",))
    assert launch(status, command.config) == 1
    assert "failed: llqr-ngd interval=50 s0 (digits" in capsys.readouterr().err
    assert score(command) == 0.0
