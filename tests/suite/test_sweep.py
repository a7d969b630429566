from __future__ import annotations

import pytest

from llqr_sam.suite.errors import UsageError
from llqr_sam.suite.sweep import pooled_sweep


def test_a_sweep_is_checked_to_its_end_before_it_starts():
    assert pooled_sweep(["seed=0,-1"]) is None  # no -m: Hydra's to judge
    with pytest.raises(UsageError, match="seed=-1"):
        pooled_sweep(["-m", "seed=0,-1"])


def test_inline_sweeps_are_hydras():
    assert pooled_sweep(["-m", "optim=sgdm,sam", "seed=0,1"]) is None
    assert pooled_sweep(["-m", "hydra/launcher=submitit_slurm", "seed=0,1"]) is None


@pytest.mark.parametrize("launcher", ["local", "slurm"])
def test_other_launchers_get_all_runs_at_once(launcher):
    sweep = pooled_sweep(["-m", "optim=sgdm,sam", "seed=0,1", f"launch={launcher}", "protocol.epochs=2"])
    assert sweep is not None
    assert sweep.config.launch.name == launcher
    assert [(run.cell.method, run.settings.seed) for run in sweep.runs] == [
        ("sgdm", 0),
        ("sgdm", 1),
        ("sam", 0),
        ("sam", 1),
    ]
    assert len({run.run_id for run in sweep.runs}) == 4


def test_tables_can_be_swept_over():
    sweep = pooled_sweep(["-m", "table='7','8'", "launch=slurm"])
    assert sweep is not None
    assert {run.folder for run in sweep.runs} == {"table_07", "table_08"}


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
