"""What reaches torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from llqr_sam.engine.devices.acceleration import compiled, times_kernels


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of every call of torch.compile; this PyTorch knows Inductor's deterministic mode."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda model, **words: found.append(words["options"] or {}) or model)
    monkeypatch.setattr(torch._inductor, "list_options", lambda: ["deterministic"])
    return found


def test_kernels_are_chosen_by_rule_in_deterministic_runs_alone(options: list[dict[str, Any]]) -> None:
    for deterministic in (False, True):
        compiled(nn.Linear(2, 2), deterministic=deterministic)
    assert options == [{}, {"deterministic": True}]


def test_a_measurement_may_have_them_timed(options: list[dict[str, Any]]) -> None:
    token = times_kernels.set(True)
    compiled(nn.Linear(2, 2), deterministic=True)
    times_kernels.reset(token)
    assert options == [{}]


def test_a_version_without_the_mode_is_not_asked_for_it(
    options: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._inductor, "list_options", list)
    compiled(nn.Linear(2, 2), deterministic=True)
    assert options == [{}]
