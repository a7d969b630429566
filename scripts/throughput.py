"""Training images a second of one run, evaluation included, and what limits it.

    python scripts/throughput.py dataset=cifar100 optim=sam precision=fast              three epochs
    python scripts/throughput.py dataset=cifar100 optim=sam precision=fast --profile    kernels of twenty steps by time

With precision.compile=true and precision.deterministic=true Inductor chooses kernels by rule. With --time-kernels it
chooses by timing them, which shows what the rule costs; PyTorch's own kernels stay deterministic.
Words are those of train.py. No file is written.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from llqr_sam.data import registry as data
from llqr_sam.engine.devices.acceleration import times_kernels
from llqr_sam.engine.devices.device import find_device
from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.loop.run import execute
from llqr_sam.engine.measurements.throughput import cost, throughput
from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.observers.terminal import Terminal
from llqr_sam.engine.settings.run_settings import RunOptions
from llqr_sam.models import registry as models
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError, exit_status, usage_errors
from llqr_sam.suite.launch.checks import check_device
from llqr_sam.suite.plan.plan import Planned, plan

EPOCHS = 3
WARM_UP, PROFILED = 20, 20  # steps


class Profiling(Observer):
    """Profiles ``PROFILED`` steps after ``WARM_UP``, then stops the run."""

    def __init__(self, device: torch.device) -> None:
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
        self.profile = profile(activities=activities)
        self._sort_by = f"self_{device.type}_time_total"

    def on_start(self, run: RunInfo) -> None:
        self._request_stop = run.request_stop

    def on_step(self, step: int, loss: float) -> None:
        if step == WARM_UP:
            self.profile.start()
        if step == WARM_UP + PROFILED:
            self.profile.stop()
            self._request_stop()

    def table(self) -> str:
        """The operations that take longest."""
        return self.profile.key_averages().table(sort_by=self._sort_by, row_limit=25)


def main() -> int:
    """Train a few epochs, or steps, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--profile", action="store_true", help="show where the time goes instead")
    parser.add_argument("--time-kernels", action="store_true", help="let Inductor choose kernels by timing them")
    arguments = parser.parse_intermixed_args()
    words = [f"protocol.epochs={EPOCHS}", *arguments.words]
    command = Command.of(*words)
    config, (run, *others) = command.config, plan(command)
    settings = run.settings
    if others:
        raise UsageError("table= has no use here: a throughput is that of one run.")
    if settings.protocol.batch_size is None:
        raise UsageError(f"dataset={settings.dataset.name} has no images to count a second.")
    with usage_errors():
        data.info(settings.dataset.reader)
    if config.devices != 1:
        raise UsageError(f"devices={config.devices} has no use here: a throughput is that of one device.")
    if settings.protocol.epochs < 2 and not arguments.profile:
        raise UsageError(f"protocol.epochs={settings.protocol.epochs} must be >= 2: the first epoch warms up.")
    if arguments.time_kernels and not (settings.precision.compile and settings.precision.deterministic):
        raise UsageError(
            "--time-kernels has no use without precision.compile=true precision.deterministic=true: "
            "Inductor chooses by rule with both alone."
        )
    check_device(config, [settings])
    times_kernels.set(arguments.time_kernels)
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(
            Path(folder),
            Path(folder) / "record.json",
            data_path=run.data_path,
            data_root=config.paths.data,
            device=config.device,
            workers=run.workers,
        )
        try:
            print(*(profiled if arguments.profile else measured)(run, options), sep="\n")
            if arguments.time_kernels:
                print("Inductor chose kernels by timing them")
        except FileNotFoundError as error:
            raise UsageError(str(error)) from error
        except Interrupted:
            print("interrupted", file=sys.stderr)
            return 130
    return 0


def profiled(run: Planned, options: RunOptions) -> list[str]:
    """Where the time of a step goes."""
    profiling = Profiling(find_device(options.device))
    try:
        execute(run.settings, options, [Terminal(), profiling])
    except Interrupted as interruption:
        if interruption.signum is not None:
            raise
        return [f"{run.run_id}: {PROFILED} steps", profiling.table()]
    raise UsageError(f"protocol.epochs={run.settings.protocol.epochs} is too short for {WARM_UP + PROFILED} steps.")


def measured(run: Planned, options: RunOptions) -> list[str]:
    """Images and operations a second, and the parts of the time."""
    record = execute(run.settings, options, [Terminal()])
    known, arch = data.info(run.settings.dataset.reader), run.settings.arch
    shape = known.channels, known.image_size, known.image_size
    model = models.build(arch.builder, classes=known.classes, image_size=shape[1], channels=shape[0], **arch.options)
    found = throughput(record, sum(cost(model, shape)))
    share = "not known" if found.share is None else f"{100 * found.share:.1f} %"
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in vars(record.seconds).items())
    return [
        f"{run.run_id} on {record.device}",
        f"{found.images:.0f} training images a second, evaluation included",
        f"{found.flops / 1e12:.2f} TFLOP/s, {share} of the device's dense bfloat16 peak",
        f"seconds: {parts}",
    ]


if __name__ == "__main__":
    sys.exit(exit_status(main))
