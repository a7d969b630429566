"""Counted operations are those of the network's arithmetic, and a throughput is read off the record alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from torch import nn

from llqr_sam.engine.loop.run import execute
from llqr_sam.engine.measurements.throughput import cost, peak, throughput
from llqr_sam.models.registry import build


def test_a_network_by_hand() -> None:
    """3 x 3 convolution from 2 to 4 channels on 6 x 6, then 4 * 16 -> 5: two operations a multiply-add."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5))
    convolution, linear = 2 * 16 * 4 * 18, 2 * 64 * 5
    assert cost(model, (2, 6, 6)) == (convolution + linear, convolution + 2 * linear)  # no gradient of the images


def test_resnet18() -> None:
    """0.56 G multiply-adds an image at 32 x 32, as its literature says."""
    assert cost(build("resnet18", classes=100, image_size=32), (3, 32, 32))[0] == pytest.approx(1.11e9, rel=0.01)


def test_the_first_epoch_is_left_out(make_settings: Any, make_options: Any) -> None:
    """Three epochs whose clock stood at 10, 12 and 14 seconds."""
    record = execute(make_settings("sam", epochs=3), make_options())
    curve = [dataclasses.replace(point, seconds=8.0 + 2 * point.epoch) for point in record.metrics.curve]
    record = dataclasses.replace(record, metrics=dataclasses.replace(record.metrics, curve=curve), device="NVIDIA H200")
    found = throughput(record, 30)
    epoch = curve[0].step * 64
    assert found.images == epoch / 2
    assert found.flops == 2 * 30 * found.images
    assert found.share == found.flops / 989e12
    four = throughput(dataclasses.replace(record, device="4 x NVIDIA H200", devices=4), 30)
    assert four.share == pytest.approx(found.share / 4)
    single = dataclasses.replace(record, metrics=dataclasses.replace(record.metrics, curve=curve[:1]))
    with pytest.raises(ValueError, match="two evaluations"):
        throughput(single, 1)


def test_peaks_are_those_of_known_devices() -> None:
    assert peak("NVIDIA H100 PCIe") == 756e12
    assert peak("NVIDIA H100 80GB HBM3") == peak("NVIDIA H200")
    assert peak("AMD EPYC 7763 64-Core Processor") is None
