"""Cost of each method, as ratios to one gradient evaluation of the same network and minibatch in the same process.

python scripts/bench.py                                        ResNet-18 at width 16, batch 64; 3 minutes
python scripts/bench.py --width 64 --batch 32 --divergences ngd --json
python scripts/bench.py --arch vit_base --image-size 224 --classes 1000 --batch 64 --device cuda
python scripts/bench.py --study parts                          where a refresh spends its time
python scripts/bench.py --study memory --chunk-size 8          what memory a refresh takes
python scripts/bench.py --study precision                      rounding in a refresh: what it does to U g, what it saves
python scripts/bench.py --study precision --data cifar100.npz --train-steps 300    of a ResNet-18 on CIFAR-100
python scripts/bench.py --study overhead --rounds 30           a step beside many small parameters
python scripts/bench.py --study scaling                        batch, width, depth, parameter count
python scripts/bench.py --study scaling --sweeps parameters --structures diagonal --inner-steps 5      12 GiB
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from benchmarks.overhead import COUNT, SIZE, overhead
from benchmarks.parts import parts
from benchmarks.precision import Trained, effects, speeds
from benchmarks.scaling import SWEEPS, Point, exponents, scaling
from benchmarks.steps import INNER_STEPS as STEPS_OF_REFRESH
from benchmarks.steps import overheads, steps
from rich.console import Console
from rich.table import Table

from llqr_sam.engine.devices.device import arithmetic, device_name, find_device
from llqr_sam.engine.measurements.rounds import peak_mib
from llqr_sam.methods.blocks.assembly import Structure
from llqr_sam.methods.curvature.products import Divergence
from llqr_sam.methods.llqr import LLQR
from llqr_sam.models.registry import build
from llqr_sam.studies.table_10.timing import Problem
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError, exit_status


def study_steps(options: argparse.Namespace) -> dict[str, Any]:
    """Steps and refreshes of every structure."""
    workloads = steps(_problem(options), options.structures, options.divergences, options.inner_steps, options.rounds)
    figures = [
        {"row": w.name, "milliseconds": 1e3 * w.median, "gradients": w.ratio(workloads[0]), "peak_mib": w.peak_mib}
        for w in workloads
    ]
    intervals = list(Command.of("table=10").table.require_timing().intervals)
    spread = [
        {"LLQR+SAM / SAM": name, **{str(n): ratio for n, ratio in zip(intervals, ratios, strict=True)}}
        for name, ratios in overheads(workloads, intervals)
    ]
    return {"rows": figures, "LLQR+SAM over SAM, by steps between refreshes": spread}


def study_parts(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one refresh by part, for every structure."""
    problem = _problem(options)
    figures = []
    for divergence in options.divergences:
        for structure in options.structures:
            seconds = parts(problem, structure, divergence, options.inner_steps)
            share = {name: 100 * value / seconds["whole"] for name, value in seconds.items() if name != "whole"}
            figures.append({"refresh": f"{divergence}, {structure}", "seconds": seconds["whole"], **share})
    return {"percent of one refresh": figures}


def study_memory(options: argparse.Namespace) -> dict[str, Any]:
    """MiB of the parameters, of U, and of a refresh above both; one inner step needs as much as fifty."""
    problem, chunk, figures = _problem(options), options.chunk_size, []
    batch = (problem.inputs, problem.targets, problem.loss_fn)
    for divergence in options.divergences:
        for structure in options.structures:
            metric = LLQR(problem.model, divergence=divergence, structure=structure, inner_steps=1, chunk_size=chunk)
            figures.append(
                {
                    "refresh": f"{divergence}, {structure}, chunks of {chunk or options.batch}",
                    "parameters": 4 * problem.parameters / 2**20,
                    "U": 4 * metric.storage / 2**20,
                    "refresh above both": peak_mib(partial(metric.refresh, *batch), problem.device),
                }
            )
    return {"MiB": figures}


def study_precision(options: argparse.Namespace) -> dict[str, Any]:
    """The network in each precision while U is learned: U g on a trained network, and time."""
    cases = [(s, d) for d in options.divergences for s in options.structures]
    problem = _problem(options)
    ratios = [speeds(problem, *case, options.inner_steps, options.rounds) for case in cases]
    trained = Trained(options.data, options.batch, options.train_steps, problem.device)
    changes = [effects(trained, *case, STEPS_OF_REFRESH) for case in cases]
    return {f"percent of U g, {trained.name}": changes, "refresh, ratio to float32": ratios}


def study_overhead(options: argparse.Namespace) -> dict[str, Any]:
    """A SAM step as a ratio to its two gradients and the base's step."""
    workloads = overhead(options.rounds, find_device(options.device))
    figures = [{"row": w.name, "milliseconds": 1e3 * w.median, "ratio": w.ratio(workloads[0])} for w in workloads]
    return {f"{COUNT} parameters of {SIZE} x {SIZE}": figures}


def study_scaling(options: argparse.Namespace) -> dict[str, Any]:
    """Refreshes along the sweeps, and the exponent in the parameter count."""
    found: dict[str, Any] = {}
    for structure in options.structures:
        points: list[Point] = []
        for point in scaling(
            options.sweeps, structure, options.inner_steps, options.rounds, find_device(options.device)
        ):
            points.append(point)
            if not options.json:
                print(f"  {structure} {point.sweep} {point.name}: {point.ratio:.2f}", flush=True)
        found[structure] = [asdict(point) for point in points]
        if vits := [point for point in points if point.sweep == "parameters"]:
            refresh, gradient = exponents(vits)
            found[f"{structure}: exponent in parameters over ViT sizes"] = [{"refresh": refresh, "gradient": gradient}]
    return found


def _problem(options: argparse.Namespace) -> Problem:
    torch.manual_seed(0)
    side = options.image_size
    model = build(options.arch, classes=options.classes, image_size=side, channels=3, width=options.width)
    return Problem(model, (options.batch, 3, side, side), options.classes, find_device(options.device))


def _title(options: argparse.Namespace) -> str:
    """The network and the machine."""
    machine = (
        f"{device_name(find_device(options.device))}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    if options.study in ("scaling", "overhead"):  # of other networks
        return machine
    width = f" at width {options.width}" if options.width else ""
    size = _problem(options).parameters / 1e6
    return f"{options.arch}{width}, {size:.2f}M parameters, batch {options.batch}, {machine}"


STUDIES = {
    "steps": study_steps,
    "parts": study_parts,
    "memory": study_memory,
    "precision": study_precision,
    "overhead": study_overhead,
    "scaling": study_scaling,
}


def some_of(choices: Iterable[str]) -> Callable[[str], list[str]]:
    """An option's value: some of the choices, with commas between."""

    def words(value: str) -> list[str]:
        found = value.split(",")
        if unknown := set(found).difference(choices):
            raise argparse.ArgumentTypeError(f"{','.join(sorted(unknown))}: choose from {', '.join(choices)}")
        return found

    return words


def show(title: str, figures: list[dict[str, Any]]) -> None:
    """Dictionaries of one shape as a table."""
    table = Table(title=title, title_justify="left")
    for column in figures[0]:
        table.add_column(column, justify="left" if isinstance(figures[0][column], str) else "right")
    for row in figures:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)


def main() -> int:
    """Parses the options, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=tuple(STUDIES), default="steps")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--width", type=int, default=None, help="channels of the first stage; resnet18's default is 16")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--structures", type=some_of(get_args(Structure)), default="diagonal,diag_kfac,kfac,ekfac")
    parser.add_argument("--divergences", type=some_of(get_args(Divergence)), default="ngd,newton")
    parser.add_argument("--chunk-size", type=int, default=None, help="samples a refresh linearises at a time (memory)")
    parser.add_argument(
        "--data", type=Path, default=None, help=".npz of CIFAR to train on; default: digits (precision)"
    )
    parser.add_argument(
        "--train-steps", type=int, default=40, help="of the network before its U is learned (precision)"
    )
    parser.add_argument("--sweeps", type=some_of(SWEEPS), default=",".join(SWEEPS), help="of --study scaling")
    parser.add_argument("--inner-steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    if options.arch == "resnet18" and options.width is None:
        options.width = 16
    try:
        title = _title(options)
    except ValueError as error:  # of a network or a device
        raise UsageError(str(error)) from error
    with arithmetic(deterministic=False):
        found = STUDIES[options.study](options)
    if options.json:
        print(json.dumps({"title": title, **found}, indent=1))
        return 0
    print(title)
    for name, figures in found.items():
        show(name, figures)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
