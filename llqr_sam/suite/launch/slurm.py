"""Runs as a SLURM array, through submitit: submitted, not waited for."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from llqr_sam.methods.settings import require
from llqr_sam.suite.config.errors import UsageError, explain
from llqr_sam.suite.config.schema import LaunchConfig
from llqr_sam.suite.config.sources import profiles
from llqr_sam.suite.run.attempt import Job
from llqr_sam.suite.run.code_snapshot import environment
from llqr_sam.suite.run.worker import PYTHON, SlurmRun

NO_SLURM = "launch=slurm needs a machine with sbatch and srun."

# Path of each prepared data set under the data root, for profiles that copy them to a node's disk.
FILES = {"cifar10": "cifar10.npz", "cifar100": "cifar100.npz", "tinyimagenet": "tiny-imagenet-200"}
FILES |= {name: name for name in ("imagenet", "iwslt14", "multi30k")}


@dataclass
class Profile:
    """What one device of a run asks a cluster for (slurm/README.md)."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gres: str | None = None
    constraint: str | None = None
    time: str = "12:00:00"  # minutes, [HH:]MM:SS or D-HH[:MM[:SS]]
    mem: str | None = None
    cpus: int = 1
    devices_per_node: int = 8  # of one run, at most
    array_parallelism: int = 32  # jobs of an array that run at once
    signal_delay: int = 120  # seconds from the warning to the time limit
    setup: list[str] = field(default_factory=list)  # shell lines before each job
    data: str | None = None  # data root in the job; may name variables of the job's environment
    sbatch: dict[str, Any] = field(default_factory=dict)  # further options of sbatch; null or false: left out

    def __post_init__(self) -> None:
        if self.data is not None:
            self.data = os.path.expanduser(self.data)
        for key in ("cpus", "devices_per_node", "array_parallelism", "signal_delay"):
            self._require(getattr(self, key) >= 1, key, "must be >= 1")
        limit = 60 * self.minutes  # with a longer delay the job would be requeued as soon as it starts
        problem = f"must be less than time={self.time}, which is {limit} seconds"
        self._require(self.signal_delay < limit, "signal_delay", problem)

    def _require(self, holds: bool, key: str, problem: str) -> None:
        require(holds, key, getattr(self, key), problem)

    @property
    def minutes(self) -> int:
        """The time limit."""
        match = re.fullmatch(r"(?:(\d+)-)?(\d+(?::\d+){0,2})", self.time)
        self._require(match is not None, "time", "is not a time. Write minutes or D-HH:MM:SS")
        assert match is not None
        numbers = [int(number) for number in match[2].split(":")]
        if match[1] is None and len(numbers) < 3:
            numbers.insert(0, 0)  # the first number is minutes
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
        total = (int(match[1] or 0) * 24 + hours) * 60 + minutes + seconds // 60
        self._require(total >= 1, "time", "must be a minute at least")
        return total


def read_profile(name: str) -> Profile:
    """The profile ``slurm/<name>.yaml``, or the user's, or the file ``name``; any mistake in it is a UsageError."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else profiles().get(name)
    if path is None or not path.is_file():
        known = ", ".join(sorted(profiles()))
        raise UsageError(f"launch.profile={name} is not a SLURM profile here. Choose from: {known}; or name a file.")
    try:
        tree = yaml.load(path.read_text(), _text_loader()) or {}
        merged = OmegaConf.merge(OmegaConf.structured(Profile), tree)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
        reason = explain(error).replace('in "<unicode string>", ', "")
        raise UsageError(f"{path} is not a SLURM profile: {reason}") from error
    try:
        return cast(Profile, OmegaConf.to_object(merged))
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def profile_of(launch: LaunchConfig) -> Profile:
    """The profile that a command names, with what it asks for itself (``launch.time=``); a mistake is a UsageError."""
    profile = read_profile(launch.profile or "generic")
    try:
        return replace(profile, **launch.asked)
    except ValueError as error:
        raise UsageError(f"launch.{error}") from error


def _text_loader() -> Any:
    """OmegaConf's YAML loader, with numbers left as text: YAML 1.1 reads 2:59:00 as a number in base 60."""
    loader = get_yaml_loader()
    numbers = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in numbers]
        for first, resolvers in loader.yaml_implicit_resolvers.items()
    }
    return loader


def submit(jobs: Sequence[Job], profile: Profile, snapshot: Path, workspace: Path, name: str) -> list[str]:
    """Queue the jobs as one array ``name``; returns SLURM's number of each.

    Args:
        jobs: With absolute paths, on a file system that the compute nodes see.
        profile: The cluster. A run on several devices has a task for each.
        snapshot: The code they run.
        workspace: submitit keeps its scripts and logs in ``slurm/`` there.

    Raises:
        UsageError: there is no SLURM here, it refuses the jobs, or their devices do not fill whole nodes.
    """
    if not _has_slurm():
        raise UsageError(f"{NO_SLURM} Choose launch=local here.")
    import submitit  # takes half a second, which other launchers need not wait

    executor = submitit.AutoExecutor(
        folder=workspace / "slurm", cluster="slurm", slurm_max_num_timeout=1000, slurm_python=PYTHON
    )
    executor.update_parameters(**_parameters(jobs, profile, snapshot, name))
    if profile.data is not None:
        jobs = [replace(job, options=replace(job.options, data_root=Path(profile.data))) for job in jobs]
    try:
        submitted = executor.submit_array([SlurmRun(job.to_json()) for job in jobs])
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UsageError(f"SLURM refuses the jobs: {reason}") from error
    return [job.job_id for job in submitted]


def lines_about(profile: Profile, devices: int) -> Iterator[str]:
    """What a job on so many devices asks SLURM for; UsageError if they do not fill whole nodes."""
    nodes, tasks = _layout(devices, profile.devices_per_node)
    yield f"  time {profile.time} (and is warned {profile.signal_delay} s before it ends)"
    yield f"  nodes {nodes}, tasks {tasks} on each, cpus {profile.cpus} for each task"
    on_node = {"gres": _times(profile.gres, tasks), "mem": _times(profile.mem, tasks)}
    yield "  on each node " + ", ".join(f"{key} {value or 'as SLURM is set up'}" for key, value in on_node.items())
    places = {key: getattr(profile, key) for key in ("partition", "account", "qos", "constraint")}
    given = [f"{key} {value}" for key, value in places.items() if value is not None]
    yield "  " + (", ".join(given) if given else "the default partition and account")
    if profile.sbatch:
        yield "  sbatch " + ", ".join(f"{key}: {value}" for key, value in profile.sbatch.items())
    if not _has_slurm():
        yield f"{NO_SLURM} Launch it where they are."


def _has_slurm() -> bool:
    return shutil.which("sbatch") is not None and shutil.which("srun") is not None


def _parameters(jobs: Sequence[Job], profile: Profile, snapshot: Path, name: str) -> dict[str, Any]:
    """submitit's parameters."""
    nodes, tasks = _layout(jobs[0].options.devices, profile.devices_per_node)
    given = {key: getattr(profile, key) for key in ("partition", "account", "qos", "constraint")}
    given |= {"gres": _times(profile.gres, tasks), "mem": _times(profile.mem, tasks)}
    used = {job.settings.dataset.reader for job in jobs}
    variables = environment(snapshot) | {
        "SUITE_DATA": str(jobs[0].options.data_root),
        "SUITE_FILES": " ".join(path for name, path in FILES.items() if name in used),
    }
    exports = [f"export {key}={shlex.quote(value)}" for key, value in variables.items()]
    sbatch = {"requeue": True} | profile.sbatch
    # srun takes no --cpus-per-task from sbatch since SLURM 22.05; a rank that is lost takes the others with it.
    srun = [f"--cpus-per-task={profile.cpus}", "--kill-on-bad-exit=1"]
    return {
        "name": name,
        "timeout_min": profile.minutes,
        "slurm_cpus_per_task": profile.cpus,
        "nodes": nodes,
        "tasks_per_node": tasks,
        "slurm_array_parallelism": profile.array_parallelism,
        "slurm_signal_delay_s": profile.signal_delay,
        "slurm_srun_args": srun,
        "slurm_setup": [*exports, 'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"', *profile.setup],
        "slurm_additional_parameters": {key: v for key, v in sbatch.items() if v is not None and v is not False},
        **{f"slurm_{key}": value for key, value in given.items() if value is not None},
    }


def _layout(devices: int, per_node: int) -> tuple[int, int]:
    """Number of nodes, and of tasks on each."""
    nodes = -(-devices // per_node)
    if devices % nodes:
        raise UsageError(f"devices={devices} do not fill nodes of devices_per_node={per_node} of the SLURM profile.")
    return nodes, devices // nodes


def _times(asked: str | None, devices: int) -> str | None:
    """``gpu:a100:1`` or ``16GB``, multiplied by ``devices``."""
    if asked is None or devices == 1:
        return asked
    match = re.fullmatch(r"(.*:)?(\d+)([KMGT]?B?)", asked)
    return f"{match[1] or ''}{int(match[2]) * devices}{match[3]}" if match else f"{asked}:{devices}"
