"""The networks of a table of times: which are measured on this device, and measuring those that are not.

A network is measured once for each device, batch and setting: ``results/timings/<name>.json``. Where the table gives
``bytes_per_parameter`` for a kind of device, networks that do not fit into its free memory are left out; those named
with ``arch=`` or ``table.archs=`` are measured anyway.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from llqr_sam.data.registry import info
from llqr_sam.engine.devices.device import device_name, find_device
from llqr_sam.engine.records.typed_json import read_all
from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.engine.tasks.registry import task_for
from llqr_sam.studies.table_10.table import cadence, overview
from llqr_sam.studies.table_10.timing import (
    FOLDER,
    SCHEMA_VERSION,
    Busy,
    Effort,
    Timing,
    read_timings,
    time_network,
    timing_name,
)
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError, say, usage_errors
from llqr_sam.suite.config.schema import EffortConfig, TimingConfig
from llqr_sam.suite.launch.checks import check_code, check_device, check_timed_here
from llqr_sam.suite.plan.plan import plan

MEMORY = Path("/proc/meminfo")
ATTEMPTS = 3  # at measuring a network, before the machine counts as too busy


@dataclass(frozen=True)
class Network:
    """A network of the table on this device."""

    device: torch.device
    runs: tuple[RunSettings, ...]  # its methods
    effort: Effort
    path: Path  # of its record
    reason: str | None  # why it is left out

    @property
    def arch(self) -> str:
        """The network's name."""
        return self.runs[0].arch.name

    @property
    def is_measured(self) -> bool:
        """Whether it has a record that can be read."""
        return bool(read_all(Timing, [self.path], SCHEMA_VERSION)[0])

    @property
    def state(self) -> str:
        """Measured, left out or not measured."""
        if self.is_measured:
            return f"measured: {self.path}"
        return f"left out: {self.reason}" if self.reason else "not measured"

    def measure(self) -> str | None:
        """Measure it and write its record; returns ``None``, or why that was not possible."""
        for _ in range(ATTEMPTS):
            try:
                time_network(self.runs, info(self.runs[0].dataset.reader), self.effort, self.device).write(self.path)
                return None
            except Busy as busy:
                obstacle = f"in {ATTEMPTS} measurements {busy}; try again when the machine is less busy"
            except torch.OutOfMemoryError:
                return f"out of memory at table.timing.batch={self.effort.batch}"
        return obstacle


def time_networks(command: Command) -> int:
    """Measure what is missing of a table of times, then show it."""
    networks = networks_here(command)
    if command.config.status or command.config.dry_run:
        print(*state_lines(networks), sep="\n")
        return 0
    status = measure_missing(networks)
    timings, damaged = read_timings(command.config.paths.results)
    say(*damaged)
    print(*overview(cadence(command.table, timings)), sep="\n")
    return status


def state_lines(networks: Sequence[Network]) -> Iterator[str]:
    """A line for each network."""
    first = networks[0]
    yield f"on {device_name(first.device)}, batch {first.effort.batch}:"
    width = max(len(network.arch) for network in networks)
    yield from (f"{network.arch:{width}}  {network.state}" for network in networks)


def measure_missing(networks: Sequence[Network]) -> int:
    """Measure what is missing, smallest first; exit status 1 if one did not fit into memory or the machine was busy."""
    status = 0
    for network in networks:
        if not network.is_measured and not network.reason:
            say(f"{network.arch}: measuring")
            obstacle = network.measure()
            gc.collect()  # of the last network
            if network.device.type == "cuda":
                torch.cuda.empty_cache()
            if obstacle:
                say(f"{network.arch}: not measured: {obstacle}")
                status = 1
                continue
        say(f"{network.arch}: {network.state}")
    return status


def networks_here(command: Command) -> list[Network]:
    """The networks that a command with a table of times asks for, on this device.

    Raises:
        UsageError: an impossible value, launcher or number of devices, or a device that cannot do what is asked for.
    """
    config, table = command.config, command.table
    check_timed_here(config)
    if config.devices > 1:
        raise UsageError(f"devices={config.devices} has no use with table={table.number}: it times one. Use devices=1.")
    check_code()
    planned = plan(command)
    with usage_errors():
        for reader in {run.settings.dataset.reader for run in planned}:
            info(reader)
    check_device(config, [run.settings for run in planned])
    device, timing = find_device(config.device), table.require_timing()
    kind = timing.gpu if device.type == "cuda" else timing.cpu
    named = any(word.partition("=")[0] in ("arch", "table.archs") for word in command.words)
    networks = []
    for arch in dict.fromkeys(run.cell.arch for run in planned):
        runs = tuple(run.settings for run in planned if run.cell.arch == arch)
        effort = _effort(timing, kind, runs)
        path = config.paths.results / FOLDER / f"{timing_name(runs, effort, device)}.json"
        reason = None if named else _too_large(runs[0], kind.bytes_per_parameter)
        networks.append(Network(device, runs, effort, path, reason))
    return networks


def _effort(timing: TimingConfig, kind: EffortConfig, runs: Sequence[RunSettings]) -> Effort:
    most = max((run.optim.llqr.inner_steps for run in runs if run.optim.llqr), default=0)
    batch, inner = timing.batch or kind.batch, min(timing.inner_steps or kind.inner_steps, most)
    least = {"batch": runs[0].precision.accumulate, "rounds": 1, "inner_steps": min(2, most)}
    for (key, minimum), value in zip(least.items(), (batch, timing.rounds, inner), strict=True):
        if value < minimum:
            raise UsageError(f"table.timing.{key}={value} must be >= {minimum}.")
    return Effort(batch, timing.rounds, kind.steps, inner)


def _too_large(run: RunSettings, bytes_per_parameter: int) -> str | None:
    """Why a network does not fit into the free memory, if so."""
    if not bytes_per_parameter or not MEMORY.exists():
        return None
    model, _ = task_for(run.dataset.reader).shapes(run.arch.builder, run.dataset.reader, None)
    needed = bytes_per_parameter * sum(parameter.numel() for parameter in model.parameters()) / 2**30
    (available,) = re.findall(r"MemAvailable: *(\d+) kB", MEMORY.read_text())
    free = int(available) / 2**20
    if needed <= free:
        return None
    return f"taken to need {needed:.0f} GiB, {free:.0f} GiB are free; arch={run.arch.name} measures it anyway"
