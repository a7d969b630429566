"""Settings: flat keys to nested objects and back, and one rule for the library and for conf/."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import nn

from llqr_sam import LLQR, Adaptive, FisherDiagonal, Friendly, GradientNoise, SharpnessAware, VarianceSuppressed
from llqr_sam.methods.settings import FisherSettings, LLQRSettings, MethodSettings, Perturbation, SettingError
from tests.engine.conftest import METHODS

KEYS = {
    *("name", "base", "lr", "weight_decay", "momentum", "betas", "base_args", "transport"),
    *("probe", "rho", "norm", "start_step", "batch_norm", "direction"),
    *("friendly_sigma", "friendly_decay", "vasso_theta", "fisher_eta", "fisher_form", "asam_eta"),
    *(
        "noise_decay",
        "noise_delta",
        "divergence",
        "structure",
        "inner_steps",
        "inner_lr",
        "inner_momentum",
        "clip_norm",
    ),
    *("ema", "damping", "interval", "reduction", "likelihood", "refresh_batch"),
}


def method(name: str, **changes: Any) -> MethodSettings:
    return MethodSettings.from_keys({"name": name} | METHODS[name] | changes)


def test_the_keys_are_those_of_conf() -> None:
    """They are in run ids and in everybody's commands."""
    assert set(MethodSettings.key_types()) == KEYS
    types = MethodSettings.key_types()
    assert (types["rho"], types["start_step"], types["norm"], types["betas"]) == (float, int, str, list[float])


@pytest.mark.parametrize("name", METHODS)
def test_keys_read_back_as_the_same_method(name: str) -> None:
    settings = method(name)
    assert MethodSettings.from_keys(settings.as_keys()) == settings
    keys = {"name": name, "transport": "identity", "direction": "gradient"} | METHODS[name]
    assert settings.as_keys() == {key: value for key, value in keys.items() if key != "direction" or settings.sam}


def test_parts_are_nested() -> None:
    settings = method("fisher_sam")
    assert settings.sam is not None
    assert settings.sam.probe == FisherSettings(eta=0.1, form="authors")
    assert settings.sam.perturbation == Perturbation(rho=0.1, norm="metric", start_step=0, batch_norm="perturbed")
    assert (settings.llqr, settings.divergence) == (None, None)
    llqr = method("llqr_sam")
    assert llqr.sam is not None
    assert isinstance(llqr.llqr, LLQRSettings)
    assert llqr.sam.probe == llqr.transport == llqr.llqr
    assert llqr.divergence == "ngd"


def test_a_setting_stays_what_was_checked() -> None:
    with pytest.raises(FrozenInstanceError):
        Perturbation(0.1, "metric", 0, "clean").rho = -1.0  # type: ignore[misc]


NET = nn.Linear(2, 2)
BASE = torch.optim.SGD(NET.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("name", "key", "value", "library"),
    [
        ("sam", "rho", -1.0, lambda x: SharpnessAware(BASE, rho=x)),
        ("sam", "rho", float("inf"), lambda x: SharpnessAware(BASE, rho=x)),
        ("sam", "norm", "max", lambda x: SharpnessAware(BASE, norm=x)),
        ("sam", "start_step", -1, lambda x: SharpnessAware(BASE, start_step=x)),
        ("sam", "batch_norm", "both", lambda x: SharpnessAware(BASE, batch_norm=x)),
        ("f_sam", "friendly_decay", 1.0, lambda x: Friendly(decay=x)),
        ("f_sam", "friendly_sigma", -1.0, lambda x: Friendly(sigma=x)),
        ("fisher_sam", "fisher_eta", 0.0, lambda x: FisherDiagonal(eta=x)),
        ("fisher_sam", "fisher_form", "ours", lambda x: FisherDiagonal(form=x)),
        ("llqr", "inner_steps", 0, lambda x: LLQR(NET, inner_steps=x)),
        ("llqr", "ema", 1.0, lambda x: LLQR(NET, ema=x)),
        ("llqr", "divergence", "kl", lambda x: LLQR(NET, divergence=x)),
        ("llqr", "damping", float("nan"), lambda x: LLQR(NET, damping=x)),
    ],
)
def test_the_library_and_conf_share_one_rule(name: str, key: str, value: Any, library: Any) -> None:
    """Their messages differ in the name alone: the argument's, or the key's."""
    with pytest.raises(SettingError) as by_key:
        method(name, **{key: value})
    with pytest.raises(SettingError) as by_argument:
        library(value)
    argument = key.removeprefix("friendly_").removeprefix("fisher_")
    assert str(by_key.value) == f"optim.{key}={value} {by_key.value.problem}."
    assert str(by_argument.value) == f"{argument}={value} {by_key.value.problem}."


@pytest.mark.parametrize(
    ("keys", "probe"),
    [
        ({"probe": "adaptive", "asam_eta": -1.0}, lambda: Adaptive(NET, eta=-1.0)),
        ({"probe": "noise", "noise_decay": 0.9, "noise_delta": 0.0}, lambda: GradientNoise(delta=0.0)),
        ({"direction": "variance_suppressed", "vasso_theta": 0.0}, lambda: VarianceSuppressed(theta=0.0)),
    ],
)
def test_so_do_the_parts_of_other_methods(keys: dict[str, Any], probe: Any) -> None:
    with pytest.raises(SettingError) as by_key:
        method("sam", **keys)
    with pytest.raises(SettingError) as by_argument:
        probe()
    assert by_argument.value.problem == by_key.value.problem
