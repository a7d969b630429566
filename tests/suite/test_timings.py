"""Which networks of a table of times are measured here, and measuring one."""

from __future__ import annotations

import pytest

from llqr_sam.suite import timings
from llqr_sam.suite.compose import compose_config
from llqr_sam.suite.errors import UsageError
from llqr_sam.suite.timings import Measurements, measurements


def of(*words: str) -> Measurements:
    chosen = ["table=10", "device=cpu", *words]
    return measurements(compose_config(chosen), chosen)


@pytest.fixture
def small_machine(monkeypatch, tmp_path):
    """Ten GiB are free."""
    memory = tmp_path / "meminfo"
    memory.write_text("MemTotal: 16777216 kB\nMemAvailable:   10485760 kB\n")
    monkeypatch.setattr(timings, "MEMORY", memory)


def test_a_cpu_takes_the_networks_that_fit(small_machine):
    assert [(n.arch, n.reason is None) for n in of().networks] == [
        *(("vit_tiny", True), ("vit_small", True), ("vit_base", False), ("vit_large", False))
    ]
    assert "left out: taken to need 32 GiB, 10 GiB are free; arch=vit_base measures it anyway" in "\n".join(
        of().lines()
    )
    (large,) = of("arch=vit_large").networks
    assert large.reason is None


def test_words_choose_methods_batch_and_structure():
    (network,) = of("arch=vit_tiny", "optim=llqr", "table.timing.batch=7", "protocol.methods.structure=kfac").networks
    assert [run.optim.name for run in network.runs] == ["llqr"]
    assert network.effort.batch == 7
    assert network.path.name.startswith("vit_tiny-")
    assert "-b7-ngd-kfac-" in network.path.name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launch=slurm"], "launch=slurm has no use with table=10: it times this machine."),
        (["device=cuda:77"], "device=cuda:77"),
        (["precision=fast"], "precision.cuda_graphs=true needs a CUDA device, not cpu. Choose precision=default here."),
        (["devices=2"], "devices=2 has no use with table=10: it times one. Use devices=1."),
        (["table.timing.batch=-1"], "table.timing.batch=-1 must be >= 1."),
        (["precision.accumulate=4"], "table.timing.batch=2 must be >= 4."),
        (["table.timing.rounds=0"], "table.timing.rounds=0 must be >= 1."),
        (["table.timing.inner_steps=1"], "table.timing.inner_steps=1 must be >= 2."),
    ],
)
def test_a_mistake_is_named(words, message):
    with pytest.raises(UsageError, match=message):
        of(*words)


def test_measures_once(tmp_path, capsys):
    """Another table of the same kind: ResNet-18, four channels wide, on CIFAR-10's images."""
    words = ("table.datasets=[cifar10]", "table.archs=[resnet18]", "arch.width=4", f"paths.results={tmp_path}")
    effort = ("table.timing.batch=2", "table.timing.rounds=1", "table.timing.inner_steps=2", "optim=llqr")
    assert of(*words, *effort).measure() == 0
    (path,) = (tmp_path / "timings").iterdir()
    written = path.stat().st_mtime_ns
    assert of(*words, *effort).measure() == 0
    assert path.stat().st_mtime_ns == written
    assert capsys.readouterr().err.splitlines() == [
        *("resnet18: measuring", f"resnet18: measured: {path}", f"resnet18: measured: {path}")
    ]
