"""Which networks of a table of times are measured here, and measuring one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llqr_sam.engine.records import provenance
from llqr_sam.studies.table_10 import networks as module
from llqr_sam.studies.table_10.networks import Network, measure_missing, networks_here, state_lines
from llqr_sam.studies.table_10.timing import Busy, read_timings
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from tests.studies.table_10.timings import busy

pytestmark = pytest.mark.slow


def of(*words: str) -> list[Network]:
    chosen = ["table=10", "device=cpu", *words]
    return networks_here(Command.of(*chosen))


@pytest.fixture
def small_machine(monkeypatch, tmp_path):
    """Ten GiB are free."""
    memory = tmp_path / "meminfo"
    memory.write_text("MemTotal: 16777216 kB\nMemAvailable:   10485760 kB\n")
    monkeypatch.setattr(module, "MEMORY", memory)


def test_a_cpu_takes_the_networks_that_fit(small_machine):
    assert [(n.arch, n.reason is None) for n in of()] == [
        *(("vit_tiny", True), ("vit_small", True), ("vit_base", False), ("vit_large", False))
    ]
    lines = "\n".join(state_lines(of()))
    assert "left out: taken to need 32 GiB, 10 GiB are free; arch=vit_base measures it anyway" in lines
    (large,) = of("arch=vit_large")
    assert large.reason is None


def test_words_choose_methods_batch_and_structure():
    (network,) = of("arch=vit_tiny", "optim=llqr", "table.timing.batch=7", "protocol.methods.structure=kfac")
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


def test_a_commit_that_no_record_can_have_is_named(monkeypatch):
    monkeypatch.setattr(provenance, "_git", lambda folder, *arguments: None)
    monkeypatch.setenv("LLQR_SAM_COMMIT", "main")
    with pytest.raises(UsageError, match="^LLQR_SAM_COMMIT='main' must be a commit"):
        of()


def small(folder: Path) -> list[Network]:
    """Another table of the same kind: ResNet-18, four channels wide, on CIFAR-10's images; all T inner steps timed."""
    words = ("table.datasets=[cifar10]", "table.archs=[resnet18]", "arch.width=4", f"paths.results={folder}")
    effort = ("table.timing.batch=2", "table.timing.rounds=1", "optim.inner_steps=2", "optim=llqr")
    return of(*words, *effort)


def test_measures_once(tmp_path, capsys):
    assert measure_missing(small(tmp_path)) == 0
    (path,) = (tmp_path / "timings").iterdir()
    written = path.stat().st_mtime_ns
    assert measure_missing(small(tmp_path)) == 0
    assert path.stat().st_mtime_ns == written
    assert capsys.readouterr().err.splitlines() == [
        *("resnet18: measuring", f"resnet18: measured: {path}", f"resnet18: measured: {path}")
    ]


@pytest.fixture
def disturbed(monkeypatch):
    """``disturbed(n)``: in the next n measurements the machine is busy."""
    left = 0
    measure = module.time_network

    def measured(*arguments):
        nonlocal left
        left -= 1
        if left >= 0:
            raise Busy("a refresh of 2 inner steps took no longer than one of 1")
        return measure(*arguments)

    def disturb(count):
        nonlocal left
        left = count

    monkeypatch.setattr(module, "time_network", measured)
    return disturb


def test_what_a_busy_machine_hides_is_measured_again(disturbed, tmp_path):
    disturbed(2)
    assert measure_missing(small(tmp_path)) == 0
    ((found,), _) = read_timings(tmp_path)
    assert found.refresh is not None


def test_a_machine_that_stays_busy_is_refused_with_one_line(disturbed, tmp_path, capsys):
    disturbed(3)
    assert measure_missing(small(tmp_path)) == 1
    assert not (tmp_path / "timings").exists()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("resnet18: not measured: in 3 measurements a refresh of 2 inner steps took no longer than ")
    assert last.endswith("; try again when the machine is less busy")


def test_a_record_that_cannot_be_composed_is_replaced(tmp_path):
    assert measure_missing(small(tmp_path)) == 0
    (network,) = small(tmp_path)
    network.path.write_text(json.dumps(busy(network.path)))
    assert network.state == "not measured"
    assert measure_missing(small(tmp_path)) == 0
    assert network.state == f"measured: {network.path}"
