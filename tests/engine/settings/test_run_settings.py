from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict
from typing import Any

import pytest
import torch

from llqr_sam.engine.settings.run_settings import PrecisionSettings, ProtocolSettings, RunSettings


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
        {"milestones": (1,)},
        {"autocast": "bfloat16"},
        {"refresh": "bfloat16"},
        {"optim": {"inner_lr": 2e-3}},
        {"optim": {"structure": "ekfac"}},
    ],
)
def test_every_setting_is_part_of_the_identity(change: dict[str, Any], make_settings: Any) -> None:
    seed = change.pop("seed", 0)
    other = make_settings("llqr_sam", change.pop("optim", None), **change)
    assert dataclasses.replace(other, seed=seed).run_id != make_settings("llqr_sam").run_id


def test_what_a_run_has_no_use_for_is_not_kept(make_settings: Any) -> None:
    tree = make_settings("sgdm").as_dict()
    assert set(tree) == {"dataset", "arch", "optim", "protocol", "precision", "seed"}
    assert set(tree["optim"]) == {"name", "base", "lr", "weight_decay", "momentum", "transport"}


@pytest.mark.parametrize("method", ["sgdm", "adam", "f_sam", "fisher_sam", "llqr", "llqr_f_sam"])
def test_a_run_is_what_its_json_says(method: str, make_settings: Any) -> None:
    settings = make_settings(method, milestones=(1, 2), schedule="step")
    assert RunSettings.from_dict(json.loads(json.dumps(settings.as_dict()))) == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"autocast": "bf16"}, r"precision\.autocast=bf16 is not known. Choose from: float32, bfloat16"),
        ({"refresh": "bf16"}, r"precision\.refresh=bf16 is not known. Choose from: float32, tf32, bfloat16"),
        ({"accumulate": 0}, r"precision\.accumulate=0 must be >= 1"),
        ({"accumulate": 65}, r"precision\.accumulate=65 must be from 1 to protocol\.batch_size=64"),
        ({"epochs": 0}, r"protocol\.epochs=0 must be >= 1"),
        ({"schedule": "linear"}, r"protocol\.schedule=linear is not known. Choose from: cosine"),
        ({"warmup_epochs": 2}, r"protocol\.warmup_epochs=2 must be less than protocol\.epochs=2"),
        ({"warmup_steps": 5}, r"protocol\.warmup_steps=5 does not fit protocol\.schedule=cosine"),
        ({"schedule": "inverse_sqrt"}, r"protocol\.warmup_steps=null does not fit protocol\.schedule=inverse_sqrt"),
        (
            {"schedule": "inverse_sqrt", "warmup_steps": 5, "warmup_epochs": 1},
            r"protocol\.warmup_epochs=1 must be 0 beside protocol\.warmup_steps=5",
        ),
        ({"milestones": (2, 1)}, r"protocol\.milestones=\[2, 1\] must be epochs >= 1 in rising order"),
        ({"gamma": float("inf")}, r"protocol\.gamma=inf must be > 0 and finite"),
    ],
)
def test_an_impossible_value_is_named(change: dict[str, Any], message: str, make_settings: Any) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        make_settings(**change)
    assert "\n" not in str(raised.value)


def test_a_float32_refresh_is_what_there_was_before_the_choice() -> None:
    """It is not in the id; the others are, as they are written."""
    assert asdict(PrecisionSettings(refresh="float32")) == asdict(PrecisionSettings())
    dtypes = {text: PrecisionSettings(refresh=text).curvature_dtype for text in (None, "float32", "tf32", "bfloat16")}
    assert dtypes == {None: None, "float32": None, "tf32": "tf32", "bfloat16": torch.bfloat16}


@pytest.mark.parametrize(
    ("text", "setting", "steps"),
    [
        (None, None, 390),
        ("1epochs", None, 390),
        ("1epoch", None, 390),
        ("2epochs", "2epochs", 780),
        ("2000steps", "2000steps", 2000),
        ("1step", "1steps", 1),
    ],
)
def test_evaluations_are_steps_or_epochs_apart(text: str | None, setting: str | None, steps: int) -> None:
    """One text for each meaning, which reads as itself: it is part of the run's id."""
    protocol = ProtocolSettings(epochs=1, evaluate_every=text)
    assert protocol.evaluate_every == setting
    assert ProtocolSettings(epochs=1, evaluate_every=setting) == protocol
    assert protocol.steps_between_evaluations(390) == steps


@pytest.mark.parametrize(
    "text", ["", "2000", "steps", "0steps", "-1epochs", "1.5epochs", "2000 steps", "2hours", "2Epochs"]
)
def test_any_other_distance_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=f"^protocol.evaluate_every={text} must be a number of steps or epochs in one"):
        ProtocolSettings(epochs=1, evaluate_every=text)
