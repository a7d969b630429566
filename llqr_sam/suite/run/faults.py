"""What ends a run from outside, each in one line: a process it needs is gone, its GPU fails, its data are missing."""

from __future__ import annotations

import re
import signal

import torch

from llqr_sam.data.streams import MissingDataError
from llqr_sam.engine.devices.team import is_loss
from llqr_sam.engine.loop.trainer import CheckpointMismatchError

# The data are missing, or are not those that the run began with: every run of the command would fail like this.
WRONG_DATA = (MissingDataError, CheckpointMismatchError)


class ProcessLost(RuntimeError):
    """A process of the run has ended; the message is one line, and a traceback would say no more."""


class RankLost(ProcessLost):
    """One of the run's ranks; the next launch continues the run."""


class LoaderLost(ProcessLost):
    """A process that reads the data set."""


class DeviceLost(RuntimeError):
    """CUDA refuses all further work in this process, for example after an illegal memory access."""


_CUDA_ERRORS = ("CUDA error", "Triton Error [CUDA]")  # not "CUDA out of memory": a process survives that


def explained(error: Exception) -> Exception:
    """The fault behind ``error``, or ``error`` itself if it is none of these faults."""
    if is_loss(error):
        return RankLost("another rank of the run is gone or does not answer; the next launch continues the run")
    if not isinstance(error, RuntimeError):
        return error
    # torch gives these errors no type of their own (AcceleratorError, a RuntimeError, since torch 2.8).
    if found := re.match(r"DataLoader worker \(pid\S* ([\d, ]+)\)(.*)", str(error)):
        fate = found[2].strip().rstrip(". ")
        return LoaderLost(f"process {found[1]}, which reads the data set, {fate}; retry=failed continues the run")
    if isinstance(error, getattr(torch, "AcceleratorError", ())) or str(error).startswith(_CUDA_ERRORS):
        return DeviceLost(f"{str(error).splitlines()[0]}; the next run needs a new process")
    return error


def how_it_ended(status: int) -> str:
    """A process's exit status in words."""
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"
