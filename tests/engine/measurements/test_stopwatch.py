from __future__ import annotations

import time
from dataclasses import asdict

import pytest
import torch

from llqr_sam.engine.measurements.stopwatch import PARTS, Stopwatch
from llqr_sam.engine.records.record import Seconds

CPU = torch.device("cpu")


def test_time_goes_to_its_part() -> None:
    watch = Stopwatch(CPU)
    for _ in range(2):
        with watch("refresh"):
            time.sleep(0.01)
    time.sleep(0.01)
    seconds = watch.seconds()
    assert 0.02 <= seconds.refresh < seconds.total - 0.009
    assert [getattr(seconds, part) for part in PARTS if part != "refresh"] == [0, 0, 0, 0]


def test_parts_and_total_survive_an_interruption() -> None:
    begun = time.perf_counter()
    watch = Stopwatch(CPU)
    watch.resume(Seconds(1, 2, 3, 4, 5, 16))
    watch.resume(Seconds(0, 0, 0, 0, 1, 1))
    with watch("data"):
        pass
    seconds = watch.seconds()
    elapsed = time.perf_counter() - begun
    assert asdict(seconds) == pytest.approx(asdict(Seconds(1, 2, 3, 4, 6, 17)), abs=elapsed + 1e-9)
    assert seconds.data > 1
    assert seconds.total > 17


def test_an_unknown_part_is_an_error() -> None:
    with pytest.raises(KeyError), Stopwatch(CPU)("lunch"):
        pass


@pytest.mark.gpu
def test_gpu_time_is_that_of_the_kernels() -> None:
    """Queueing a long kernel takes no time; the part still gets the kernel's."""
    device = torch.device("cuda", 0)
    watch = Stopwatch(device)
    matrix = torch.randn(4096, 4096, device=device)
    matrix = matrix @ matrix / 4096  # cuBLAS starts
    torch.cuda.synchronize()
    begun = time.perf_counter()
    with watch("first_pass"):
        for _ in range(50):
            matrix = matrix @ matrix / 4096
    queued = time.perf_counter() - begun
    torch.cuda.synchronize()
    elapsed = time.perf_counter() - begun
    assert queued < 0.5 * elapsed
    assert watch.seconds().first_pass == pytest.approx(elapsed, rel=0.2)
