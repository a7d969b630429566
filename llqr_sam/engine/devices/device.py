"""The device of a run: choosing it, naming it, its random state, and making it repeat itself."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class DeviceError(ValueError):
    """A device that is not here."""


def resolve(name: str) -> torch.device:
    """The device called ``name``: ``cpu``, ``cuda``, ``cuda:<index>``, or ``auto`` (the first GPU, else the CPU).

    Raises:
        DeviceError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (index or "0").isdecimal():
        raise DeviceError(f"device={name} is not a device here. Choose from: auto, cpu, cuda, cuda:0")
    if not torch.cuda.is_available():
        raise DeviceError(f"device={name}: PyTorch sees no CUDA device on this machine. Use device=cpu or device=auto")
    count = torch.cuda.device_count()
    if int(index or 0) >= count:
        raise DeviceError(f"device={name}: this machine has {count} CUDA device(s), counted from cuda:0")
    return torch.device("cuda", int(index or 0))


def of_rank(name: str, rank: int, ranks: int) -> torch.device:
    """The device of one of the ``ranks`` processes of a run on this machine, as ``resolve`` for a single one.

    Raises:
        DeviceError: there are not so many devices here, or the name is of one.
    """
    if ranks == 1:
        return resolve(name)
    if name == "cpu":
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise DeviceError(f"device={name} does not name {ranks} devices. Use device=cuda or device=cpu with devices=")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count < ranks:
        hint = "" if count else "; device=cpu runs as many processes on the CPU"
        raise DeviceError(f"devices={ranks} on one machine: this one has {count} CUDA device(s){hint}")
    return torch.device("cuda", rank)


def slug(name: str) -> str:
    """A device's name as part of a file's: ``nvidia-h100-80gb-hbm3``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def describe(device: torch.device, count: int = 1) -> str:
    """What the device is called by its maker, for the record, and how many of them there are."""
    name = _name(device)
    return name if count == 1 else f"{count} x {name}"


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def arithmetic(*, deterministic: bool) -> Iterator[None]:
    """Inside: the same bits for the same run, or the fastest kernels, in float32 whole. Afterwards all is as it was.

    TF32, which cuDNN's convolutions use unasked, keeps 10 of float32's 23 bits. PyTorch's older switches are set, since
    its own compiler reads them and a mixture with ``fp32_precision`` raises.

    Deterministic kernels alone make a run repeat itself: PyTorch would also fill all memory that it takes, at a kernel
    each. Nothing here reads memory before it has written there.

    ``CUBLAS_WORKSPACE_CONFIG`` is read when cuBLAS starts, so it is set before the run touches the GPU and stays set.
    """
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        cudnn.allow_tf32,
    )
    matmul = torch.get_float32_matmul_precision()
    memory: Any = torch.utils.deterministic  # whose stub does not have the switch
    filling = memory.fill_uninitialized_memory
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        _use_deterministic_algorithms(deterministic)
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = deterministic, not deterministic, False
        torch.set_float32_matmul_precision("highest")
        memory.fill_uninitialized_memory = False
        yield
    finally:
        _use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = before[2:]
        torch.set_float32_matmul_precision(matmul)
        memory.fill_uninitialized_memory = filling


def _use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """torch's switch, left alone where it stands right: touching it imports the compiler, which takes a second."""
    now = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if now != (mode, warn_only):
        torch.use_deterministic_algorithms(mode, warn_only=warn_only)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's global generators that a run on ``device`` draws from: uint8 tensors on the CPU."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Continue from ``random_state``; one taken on the CPU leaves a GPU's generator as it is."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
