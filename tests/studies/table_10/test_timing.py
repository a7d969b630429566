"""Timing real methods on a narrow ResNet-18."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from llqr_sam.data.registry import info
from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.methods import factory
from llqr_sam.methods.factory import Method
from llqr_sam.studies.table_10.timing import Busy, Effort, RefreshTime, Timing, read_timings, time_network, timing_name
from tests.studies.table_10.timings import busy
from tests.suite.plans import settings_of

CPU = torch.device("cpu")
EFFORT = Effort(batch=2, rounds=3, steps=2, inner_steps=2)
METHODS = ("sgdm", "adamw", "sam", "llqr_sam")
ONE_ROUND = dataclasses.replace(EFFORT, rounds=1)


def with_precision(*words: str) -> list[RunSettings]:
    """The methods; a refresh is timed whole, so that no measurement depends on how busy the machine is."""
    common = ["dataset=cifar10", "arch.width=4", *words]
    whole = {"llqr_sam": ["optim.inner_steps=2"]}
    return [settings_of(*common, f"optim={name}", *whole.get(name, [])) for name in METHODS]


RUNS = with_precision()


@pytest.fixture(scope="module")
def timing() -> Timing:
    return time_network(RUNS, info("cifar10"), EFFORT, CPU)


@pytest.mark.slow
def test_every_method_is_timed_in_every_round(timing: Timing) -> None:
    assert [step.method for step in timing.steps] == ["sgdm", "adamw", "sam", "llqr_sam"]
    assert all(len(step.seconds) == 3 and min(step.seconds) > 0 for step in timing.steps)
    refresh = timing.refresh
    assert refresh is not None
    assert (refresh.divergence, refresh.structure, refresh.inner_steps, refresh.timed) == ("ngd", "diagonal", 2, 2)
    assert len(refresh.first) == len(refresh.longer) == 3
    assert (timing.batch, timing.image_size, timing.classes) == (2, 32, 10)
    assert timing.device
    assert timing.threads >= 1


def test_methods_without_a_metric_need_no_refresh() -> None:
    timing = time_network(RUNS[:1], info("cifar10"), dataclasses.replace(EFFORT, rounds=1, inner_steps=0), CPU)
    assert timing.refresh is None
    assert timing.seconds_of("sgdm") == timing.steps[0].seconds
    assert timing.seconds_of("sam") == []


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Method]:
    """The methods that are timed."""
    methods: list[Method] = []
    build = factory.build

    def keeping(*arguments: Any, **options: Any) -> Method:
        methods.append(build(*arguments, **options))
        return methods[-1]

    monkeypatch.setattr(factory, "build", keeping)
    return methods


@pytest.mark.slow
@pytest.mark.parametrize("word", ["true", "false", "null"])
def test_the_base_optimizer_is_fused_where_the_record_says_so(word: str, built: list[Method]) -> None:
    runs = with_precision(f"precision.fused={word}")
    timing = time_network(runs, info("cifar10"), ONE_ROUND, CPU)
    assert timing.precision["fused"] is runs[0].precision.fused
    assert len(built) == len(METHODS)
    for method in built:
        base = getattr(method.optimizer, "base", method.optimizer)
        assert all(group["fused"] is runs[0].precision.fused for group in base.param_groups)


@pytest.mark.slow
def test_refreshes_are_timed_in_the_precision_that_is_asked_for(built: list[Method]) -> None:
    timing = time_network(with_precision("precision.refresh=bfloat16"), info("cifar10"), ONE_ROUND, CPU)
    assert timing.precision["refresh"] == "bfloat16"
    metrics = [method.metric for method in built if method.metric is not None]
    assert metrics
    assert {metric._precision.autocast for metric in metrics} == {torch.bfloat16}


def test_a_compiled_network_is_the_trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph of fixed shapes for all methods."""
    compiler, counter = torch.compile, CompileCounterWithBackend("eager")
    asked: list[dict[str, Any]] = []

    def counting(model: nn.Module, **options: Any) -> Any:
        asked.append(options)
        return compiler(model, backend=counter, **options)

    monkeypatch.setattr(torch, "compile", counting)
    time_network(with_precision("precision.compile=true"), info("cifar10"), ONE_ROUND, CPU)
    assert [(options["fullgraph"], options["dynamic"]) for options in asked] == [(True, False)]
    assert counter.frame_count == 1


def test_every_pass_of_every_method_replays_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in evaluates where a ``CudaGraph`` would replay; memory is the graph's, and no step's."""
    made: list[nn.Module] = []
    passes = 0

    class StandIn:
        def __init__(self, model: nn.Module, device: torch.device) -> None:
            made.append(model)

        def __call__(self, evaluate: Callable[..., Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
            nonlocal passes
            passes += 1
            return evaluate(inputs, targets)

    monkeypatch.setattr("llqr_sam.studies.table_10.timing.CudaGraph", StandIn)
    timing = time_network(with_precision("precision.cuda_graphs=true"), info("cifar10"), ONE_ROUND, CPU)
    assert len(made) == 1
    of_one_round = 2 * sum(2 if name in ("sam", "llqr_sam") else 1 for name in METHODS)  # of two steps
    assert passes == 2 * of_one_round + 2  # warm-up and one round; before them the first method again
    assert all(step.peak_mib is None for step in timing.steps)


def test_graphs_need_a_gpu() -> None:
    with pytest.raises(ValueError, match="cuda_graphs=true needs a CUDA device, not device=cpu"):
        time_network(with_precision("precision.cuda_graphs=true"), info("cifar10"), ONE_ROUND, CPU)


@pytest.mark.gpu
def test_a_gpu_is_timed_with_all_that_makes_it_fast() -> None:
    timing = time_network(with_precision("precision=fast"), info("cifar10"), ONE_ROUND, torch.device("cuda", 0))
    assert timing.precision["cuda_graphs"] is timing.precision["fused"] is timing.precision["compile"] is True
    assert all(min(step.seconds) > 0 for step in timing.steps)


def test_reads_what_it_wrote(timing: Timing, tmp_path: Path) -> None:
    timing.write(tmp_path / "timings" / "a.json")
    assert read_timings(tmp_path) == ([timing], [])


def test_a_damaged_measurement_is_named(timing: Timing, tmp_path: Path) -> None:
    timing.write(tmp_path / "timings" / "a.json")
    text = (tmp_path / "timings" / "a.json").read_text()
    (tmp_path / "timings" / "b.json").write_text(text.replace('"batch": 2', '"batch": "two"'))
    found, damaged = read_timings(tmp_path)
    assert found == [timing]
    (line,) = damaged
    assert line.startswith(f'{tmp_path / "timings" / "b.json"}: batch is "two": ')


def test_the_name_tells_settings_and_effort_apart() -> None:
    other = dataclasses.replace(EFFORT, batch=4)
    names = {timing_name(RUNS, EFFORT, CPU), timing_name(RUNS, other, CPU), timing_name(RUNS[:2], EFFORT, CPU)}
    assert len(names) == 3
    assert timing_name(RUNS, EFFORT, CPU) in names
    assert timing_name(RUNS, EFFORT, CPU).startswith("resnet18-")
    assert "-b2-ngd-diagonal-" in timing_name(RUNS, EFFORT, CPU)


def refresh_time(timed: int, first: list[float], longer: list[float]) -> RefreshTime:
    return RefreshTime("ngd", "diagonal", 50, timed, first, longer, None)


def test_a_refresh_is_composed_linearly_in_its_inner_steps() -> None:
    """Times a + b T: 1 + 0.5 T here."""
    assert refresh_time(5, [1.5], [3.5]).seconds == pytest.approx([26.0])
    assert refresh_time(50, [1.5], [27.0]).seconds == [27.0]  # timed whole, so what was measured


@pytest.mark.parametrize("longer", [3.0, 2.5], ids=["no longer", "shorter"])
def test_what_a_busy_machine_hides_is_not_composed(longer: float) -> None:
    """The slope between 1 and n inner steps would be zero or negative. Timed whole there is nothing to compose."""
    with pytest.raises(Busy, match="5 inner steps took no longer than one of 1"):
        refresh_time(5, [3.0, 4.0], [longer, 9.0])
    assert refresh_time(50, [3.0, 4.0], [longer, 9.0]).seconds == [longer, 9.0]


def test_a_record_of_a_busy_machine_does_not_count(timing: Timing, tmp_path: Path) -> None:
    path = tmp_path / "timings" / "a.json"
    timing.write(path)
    path.write_text(json.dumps(busy(path)))
    found, (line,) = read_timings(tmp_path)
    assert found == []
    assert line.startswith(f"{path}: ")
    assert "took no longer than one of 1" in line


def test_a_disturbed_round_changes_its_own_figure_alone() -> None:
    assert refresh_time(5, [1.5, 1.5, 9.0], [3.5, 8.5, 3.5]).seconds == pytest.approx([26.0, 31.0, 26.0])
