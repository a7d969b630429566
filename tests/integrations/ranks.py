"""Two processes as a launcher starts them, for the adapters whose libraries read its environment variables."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from tests.methods.workers import Workers


def launched() -> None:
    """Sets, in a worker, what torchrun and ``accelerate launch`` set."""
    rank, size = str(dist.get_rank()), str(dist.get_world_size())
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")  # not used: the group is there already


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Iterator[Workers]:
    workers = Workers(2, tmp_path_factory.mktemp("two"))
    yield workers
    workers.close()
