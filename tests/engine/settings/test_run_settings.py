from __future__ import annotations

import dataclasses
from dataclasses import asdict
from typing import Any

import pytest
import torch

from llqr_sam.engine.settings.run_settings import PrecisionSettings


def test_the_run_id_names_the_run_and_hashes_the_rest(make_settings: Any) -> None:
    settings = make_settings("llqr_sam")
    assert settings.run_id.startswith("digits-small_cnn-llqr_sam-ngd-s0-")
    assert make_settings("llqr_sam").run_id == settings.run_id
    assert make_settings("sgdm").run_id.startswith("digits-small_cnn-sgdm-s0-")


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"epochs": 3},
        {"milestones": [1]},
        {"autocast": "bfloat16"},
        {"refresh": "bfloat16"},
        {"optim": {"inner_lr": 2e-3}},
        {"optim": {"structure": "ekfac"}},
    ],
)
def test_every_setting_is_part_of_the_identity(change: dict[str, Any], make_settings: Any) -> None:
    other = make_settings("llqr_sam", change.pop("optim", None))
    if "seed" in change:
        other = dataclasses.replace(other, seed=change.pop("seed"))
    for name, value in change.items():
        setattr(other.protocol if hasattr(other.protocol, name) else other.precision, name, value)
    assert other.run_id != make_settings("llqr_sam").run_id


def test_what_a_run_has_no_use_for_is_not_kept(make_settings: Any) -> None:
    tree = make_settings("sgdm").as_dict()
    assert set(tree) == {"dataset", "arch", "optim", "protocol", "precision", "seed"}
    assert set(tree["optim"]) == {"name", "base", "lr", "weight_decay", "momentum", "transport"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"autocast": "bf16"}, r"precision\.autocast=bf16 is not known. Choose from: float32, bfloat16"),
        ({"refresh": "bf16"}, r"precision\.refresh=bf16 is not known. Choose from: float32, tf32, bfloat16"),
        ({"accumulate": 0}, r"precision\.accumulate=0 must be from 1 to protocol\.batch_size=64"),
        ({"accumulate": 65}, r"precision\.accumulate=65 must be from 1 to protocol\.batch_size=64"),
        ({"epochs": 0}, r"protocol\.epochs=0 must be >= 1"),
    ],
)
def test_an_impossible_value_is_named(change: dict[str, Any], message: str, make_settings: Any) -> None:
    make_settings().validate()
    with pytest.raises(ValueError, match=message) as raised:
        make_settings(**change).validate()
    assert "\n" not in str(raised.value)


def test_a_float32_refresh_is_what_there_was_before_the_choice() -> None:
    """It is not in the id; the others are, as they are written."""
    assert asdict(PrecisionSettings(refresh="float32")) == asdict(PrecisionSettings())
    dtypes = {text: PrecisionSettings(refresh=text).curvature_dtype for text in (None, "float32", "tf32", "bfloat16")}
    assert dtypes == {None: None, "float32": None, "tf32": "tf32", "bfloat16": torch.bfloat16}


def test_the_method_is_checked_too(make_settings: Any) -> None:
    with pytest.raises(ValueError, match="optim.interval=0"):
        make_settings("llqr_sam", {"interval": 0}).validate()
