from __future__ import annotations

import pytest

from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.launch.dispatch import pooled_sweep


def test_a_sweep_is_checked_to_its_end_before_it_starts():
    assert pooled_sweep(["seed=0,-1"]) is None  # no -m: Hydra's to judge
    with pytest.raises(UsageError, match="seed=-1"):
        pooled_sweep(["-m", "seed=0,-1"])


def test_inline_sweeps_are_hydras():
    assert pooled_sweep(["-m", "optim=sgdm,sam", "seed=0,1"]) is None
    assert pooled_sweep(["-m", "hydra/launcher=submitit_slurm", "seed=0,1"]) is None


@pytest.mark.parametrize("launcher", ["local", "slurm"])
def test_other_launchers_get_all_runs_at_once(launcher):
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
