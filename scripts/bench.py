"""Cost of each method, as ratios to one gradient evaluation of the same network and minibatch in the same process.

    python scripts/bench.py                                        ResNet-18 at width 16, batch 64; 7 minutes
    python scripts/bench.py --width 64 --batch 32 --structures diagonal,kfac --json
    python scripts/bench.py --arch vit_base --image-size 224 --classes 1000 --batch 64 --device cuda

Inputs are random numbers: only time and memory are measured. Every round times every row once, in turn, so that a slow
spell of the machine reaches all of them; a row's figure is its median over the rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from llqr_sam.engine.devices import describe, resolve
from llqr_sam.methods.llqr import LLQR, Structure
from llqr_sam.methods.sharpness import SharpnessAware
from llqr_sam.models.registry import build

INTERVAL = 500  # steps between refreshes in the paper's CIFAR protocol
INNER_STEPS = 50


@dataclass
class Row:
    """One thing that is timed.

    Attributes:
        name: What it is.
        work: Does it once.
        share: Parts the work consists of; the inner steps of a refresh.
        seconds: One figure a round, of one part.
        peak_mib: Memory above what was held before, at its highest.
    """

    name: str
    work: Callable[[], object]
    share: int = 1
    seconds: list[float] = field(default_factory=list)
    peak_mib: float | None = None


class Bench:
    """One network and minibatch, and the rows that run on them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = resolve(options.device)
        shape = (options.batch, options.channels, options.image_size, options.image_size)
        torch.manual_seed(0)
        self.inputs = torch.randn(shape, device=self.device)
        self.targets = torch.randint(0, options.classes, (options.batch,), device=self.device)
        self._build = partial(
            build,
            options.arch,
            classes=options.classes,
            image_size=options.image_size,
            channels=options.channels,
            width=options.width,
        )
        self.parameters = sum(p.numel() for p in self._build().parameters())
        self.rows = [self._gradient(), self._sgdm(), self._sam()]
        for structure in options.structures.split(","):
            self.rows += self._with_metric(structure, options.divergences.split(","))

    def run(self, rounds: int) -> None:
        """Warms every row up, then times all of them in turn."""
        self.rows[0].work()  # what the first evaluation of a process loads belongs to no row
        for row in self.rows:
            row.peak_mib = self._peak(row.work)
        for _ in range(rounds):
            for row in self.rows:
                self._wait()
                start = time.perf_counter()
                row.work()
                self._wait()
                row.seconds.append((time.perf_counter() - start) / row.share)

    def report(self) -> list[dict[str, float | str | None]]:
        """One dictionary a row: seconds, ratio to the gradient (median of the rounds' own ratios), peak memory."""
        gradient = self.rows[0].seconds
        return [
            {
                "row": row.name,
                "seconds": statistics.median(row.seconds),
                "ratio": statistics.median(s / g for s, g in zip(row.seconds, gradient, strict=True)),
                "peak_mib": row.peak_mib,
            }
            for row in self.rows
        ]

    def _gradient(self) -> Row:
        model, loss_fn = self._fresh()
        return Row("gradient evaluation", lambda: self._evaluate(model, loss_fn))

    def _sgdm(self) -> Row:
        model, loss_fn = self._fresh()
        sgd = _sgd(model)
        return Row("SGDM step", lambda: sgd.step(lambda: self._evaluate(model, loss_fn)))

    def _sam(self) -> Row:
        model, loss_fn = self._fresh()
        sam = SharpnessAware(_sgd(model), rho=0.1, model=model)
        return Row("SAM step", lambda: sam.step(lambda: self._evaluate(model, loss_fn)))

    def _with_metric(self, structure: Structure, divergences: list[str]) -> list[Row]:
        model, loss_fn = self._fresh()
        metrics = {d: LLQR(model, divergence=d, structure=structure, inner_steps=INNER_STEPS) for d in divergences}
        metric = next(iter(metrics.values()))
        llqr = SharpnessAware(_sgd(model), rho=0.0, transport=metric)
        both = SharpnessAware(_sgd(model), rho=0.1, probe=metric, transport=metric)
        rows = [
            Row(f"LLQR step, {structure}", lambda: llqr.step(lambda: self._evaluate(model, loss_fn))),
            Row(f"LLQR+SAM step, {structure}", lambda: both.step(lambda: self._evaluate(model, loss_fn))),
        ]
        for name, each in metrics.items():
            refresh = partial(each.refresh, self.inputs, self.targets, loss_fn)
            rows.append(Row(f"refresh, {name}, {structure}, per inner step", refresh, share=INNER_STEPS))
        return rows

    def _fresh(self) -> tuple[nn.Module, nn.CrossEntropyLoss]:
        torch.manual_seed(0)
        return self._build().to(self.device), nn.CrossEntropyLoss()

    def _evaluate(self, model: nn.Module, loss_fn: nn.Module) -> Tensor:
        model.zero_grad()
        loss: Tensor = loss_fn(model(self.inputs), self.targets)
        loss.backward()
        return loss

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _peak(self, work: Callable[[], object]) -> float | None:
        """MiB above the present that the work's first call needs, the buffers it leaves behind included."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            work()
            return (torch.cuda.max_memory_allocated(self.device) - before) / 2**20
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory goes back, or it would hide what is taken next
            Path("/proc/self/clear_refs").write_text("5")  # forget the process's highest resident size so far
            before = _status_kib("VmRSS")
            work()
            return (_status_kib("VmHWM") - before) / 2**10
        except OSError:
            work()
            return None


def _sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)


def _status_kib(key: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1])


def _show(bench: Bench, options: argparse.Namespace) -> None:
    table = Table(title=_title(bench, options), title_justify="left")
    for column in ("", "ms", "gradients", "peak MiB"):
        table.add_column(column, justify="right" if column else "left")
    by_name = {str(row["row"]): row for row in bench.report()}
    for name, row in by_name.items():
        peak = "-" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
        table.add_row(name, f"{1e3 * float(row['seconds'] or 0):.1f}", f"{float(row['ratio'] or 0):.2f}", peak)
    Console().print(table)
    for line in _summary(by_name):
        print(line)


def _summary(by_name: dict[str, dict[str, float | str | None]]) -> list[str]:
    """LLQR+SAM with its refreshes spread over the paper's interval, against SAM."""
    sam = float(by_name["SAM step"]["ratio"] or 0)
    lines = []
    for name, row in by_name.items():
        if name.startswith("refresh"):
            _, divergence, structure, _ = name.split(", ")
            step = float(by_name[f"LLQR+SAM step, {structure}"]["ratio"] or 0)
            whole = step + float(row["ratio"] or 0) * INNER_STEPS / INTERVAL
            lines.append(
                f"LLQR+SAM, {divergence}, {structure}, refreshed every {INTERVAL} steps: "
                f"{whole:.2f} gradients a step, {whole / sam:.2f} x SAM"
            )
    return lines


def _title(bench: Bench, options: argparse.Namespace) -> str:
    width = "" if options.width is None else f" at width {options.width}"
    return (
        f"{options.arch}{width}, {bench.parameters / 1e6:.2f}M parameters, batch {options.batch}, "
        f"{describe(bench.device)}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def main() -> None:
    """Parses the options, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--width", type=int, default=None, help="channels of the first stage")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--structures", default="diagonal,diag_kfac,kfac,ekfac")
    parser.add_argument("--divergences", default="ngd,newton")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if options.arch == "resnet18" and options.width is None:
        options.width = 16
    bench = Bench(options)
    bench.run(options.rounds)
    if options.json:
        setting = {"arch": options.arch, "width": options.width, "batch": options.batch}
        print(json.dumps({**setting, "title": _title(bench, options), "rows": bench.report()}, indent=1))
    else:
        _show(bench, options)


if __name__ == "__main__":
    main()
