"""What happens to a run from outside, in one line: a process that it needs is gone, or its GPU is, or its data are."""

from __future__ import annotations

import re

import torch

from llqr_sam.data.streams import MissingDataError
from llqr_sam.engine.devices.team import is_loss
from llqr_sam.engine.loop.trainer import CheckpointMismatchError

# The data are not there, or not those that the run was begun on: a mistake of the command that every run would meet.
WRONG_DATA = (MissingDataError, CheckpointMismatchError)


class ProcessLost(RuntimeError):
    """A process that the run needs is gone; the message is one line and there is nothing to see in a traceback."""


class RankLost(ProcessLost):
    """A rank of the run; the next launch continues."""


class LoaderLost(ProcessLost):
    """A process that reads its data."""


class DeviceLost(RuntimeError):
    """CUDA refuses all further work of the process that trained it, as it does after an illegal memory access."""


_CUDA_ERRORS = ("CUDA error", "Triton Error [CUDA]")  # not "CUDA out of memory", after which there is some again


def explained(error: Exception) -> Exception:
    """The error, or in its stead one that says what has happened."""
    if is_loss(error):
        return RankLost("another rank of the run is gone or does not answer; the next launch continues the run")
    # torch raises this from a signal handler: anywhere, and with no type of its own.
    if isinstance(error, RuntimeError) and (
        found := re.match(r"DataLoader worker \(pid\S* ([\d, ]+)\)(.*)", str(error))
    ):
        fate = found[2].strip().rstrip(". ")
        return LoaderLost(f"process {found[1]}, which reads the data set, {fate}; retry=failed continues the run")
    newer = getattr(torch, "AcceleratorError", ())  # a RuntimeError without a type of its own before torch 2.8
    if isinstance(error, newer) or (isinstance(error, RuntimeError) and str(error).startswith(_CUDA_ERRORS)):
        first, _, _advice = str(error).partition("\n")
        return DeviceLost(f"{first}; the next run needs a new process")
    return error
