"""Two processes as a launcher starts them, for the adapters whose libraries read its environment variables."""

from __future__ import annotations

import os

import torch.distributed as dist


def launched() -> None:
    """Sets, in a worker, what torchrun and ``accelerate launch`` set."""
    rank, size = str(dist.get_rank()), str(dist.get_world_size())
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")  # not used: the group is there already
