"""The device of a run: how it is found, its name, its random state, and how it does arithmetic."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor


class DeviceError(ValueError):
    """A device that this machine does not have."""


def find_device(name: str, rank: int = 0, ranks: int = 1) -> torch.device:
    """The device of process ``rank`` of the ``ranks`` that train a run on this machine, each with a GPU of its own.

    ``name`` is ``cpu``, ``cuda``, ``cuda:<index>``, or ``auto``: GPUs where there are any, else the CPU. Raises
    DeviceError where there is no such device, there are too few, or one is named for several processes.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and ranks == 1 and not count):
        return torch.device("cpu")
    if ranks > 1:
        if name not in ("auto", "cuda"):
            raise DeviceError(f"device={name} does not name {ranks} devices. Use device=cuda or device=cpu.")
        if count < ranks:
            hint = "" if count else "; device=cpu runs as many processes on the CPU"
            raise DeviceError(f"devices={ranks} on one machine: this one has {count} CUDA device(s){hint}")
        return torch.device("cuda", rank)
    match = re.fullmatch(r"auto|cuda(?::([0-9]*))?", name)
    if match is None:
        raise DeviceError(f"device={name} is not a device here. Choose from: auto, cpu, cuda, cuda:0")
    index = int(match[1] or 0)
    if not count:
        raise DeviceError(f"device={name}: PyTorch sees no CUDA device on this machine. Use device=cpu or device=auto")
    if index >= count:
        raise DeviceError(f"device={name}: this machine has {count} CUDA device(s), counted from cuda:0")
    return torch.device("cuda", index)


def device_name(device: torch.device, count: int = 1) -> str:
    """The maker's name of the device, for the record, with the number of devices where there are several."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return name if count == 1 else f"{count} x {name}"


def device_slug(name: str) -> str:
    """A device's name as part of a file name: ``nvidia-h100-80gb-hbm3``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _processor() -> str:
    with contextlib.suppress(OSError):
        if match := re.search(r"^model name\s*:(.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return match[1].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def arithmetic(*, deterministic: bool) -> Iterator[None]:
    """Compute in full float32 within the block, either reproducibly or with the fastest kernels.

    TF32, the default of cuDNN's convolutions, keeps 10 of float32's 23 bits. It is switched off with PyTorch's older
    settings: its compiler reads them, and a mixture with ``fp32_precision`` raises. In deterministic mode PyTorch would
    fill all new memory, at the cost of a kernel each; this is switched off, since no code here reads memory before it
    writes there.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = _exchange((deterministic, False), (deterministic, not deterministic, False), "highest", False)
    try:
        yield
    finally:
        _exchange(*before)


def _exchange(mode: tuple[bool, bool], convolutions: tuple[bool, bool, bool], matmul: str, filling: bool) -> Any:
    """Change the settings and return what they were."""
    cudnn, memory = torch.backends.cudnn, cast("Any", torch.utils.deterministic)  # its stub lacks the setting
    before = (
        (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32),
        torch.get_float32_matmul_precision(),
        memory.fill_uninitialized_memory,
    )
    if mode != before[0]:  # setting it imports the compiler, which takes a second
        torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(matmul)
    memory.fill_uninitialized_memory = filling
    return before


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's global generators that a run on ``device`` draws from: uint8 tensors on the CPU."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Continue from ``random_state``; a state taken on the CPU leaves a GPU's generator unchanged."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
