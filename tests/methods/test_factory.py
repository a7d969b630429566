"""Methods from names: every row of docs/methods.md, section 1, and every way to get one wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from llqr_sam import LLQR, Adaptive, FisherDiagonal, Friendly, GradientNoise, SharpnessAware, VarianceSuppressed
from llqr_sam.methods import factory
from llqr_sam.methods.settings import MethodSettings

SGD: dict[str, Any] = {"name": "sgdm", "base": "sgd", "lr": 0.05, "weight_decay": 5e-4, "momentum": 0.9}
SAM = SGD | {
    "name": "sam", "probe": "identity", "rho": 0.1, "norm": "metric", "start_step": 0, "batch_norm": "perturbed",
    "direction": "gradient",
}  # fmt: skip
U = {
    "divergence": "ngd", "structure": "kfac", "inner_steps": 2, "inner_lr": 1e-3, "inner_momentum": 0.9,
    "clip_norm": 5.0, "ema": 0.9, "damping": 0.1, "interval": 7, "reduction": "mean", "likelihood": "gaussian",
    "refresh_batch": 32,
}  # fmt: skip


def build(keys: dict[str, Any], model: nn.Module, **options: Any) -> factory.Method:
    return factory.build(MethodSettings.from_keys(keys), model, **options)


def test_base_optimizers_are_torchs_own():
    net = nn.Linear(2, 2)
    sgd = build(SGD, net).optimizer
    assert type(sgd) is torch.optim.SGD
    assert sgd.defaults["momentum"] == 0.9
    assert sgd.defaults["nesterov"] is False
    adam = build(dict(SGD, base="adam", momentum=None, betas=[0.9, 0.98]), net).optimizer
    assert type(adam) is torch.optim.Adam
    adamw = build(dict(SGD, base="adamw", momentum=None, betas=[0.9, 0.98]), net).optimizer
    assert type(adamw) is torch.optim.AdamW
    assert adamw.defaults["betas"] == (0.9, 0.98)


def test_llqr_has_no_probe_and_transports():
    method = build(dict(SGD, name="llqr", transport="llqr", **U), nn.Linear(2, 2))
    assert method.optimizer.transport is method.metric
    assert method.optimizer.param_groups[0]["rho"] == 0
    metric = method.metric
    assert (metric.structure, metric.inner_steps, metric.ema, metric.damping, metric.interval) == (
        "kfac", 2, 0.9, 0.1, 7,
    )  # fmt: skip


def test_llqr_sam_probes_and_transports_in_one_metric():
    method = build(dict(SAM, probe="llqr", transport="llqr", **U), nn.Linear(2, 2))
    assert method.optimizer.probe is method.optimizer.transport is method.metric


def test_the_curvatures_dtype_reaches_the_metric_where_there_is_one():
    spec = dict(SAM, probe="llqr", transport="llqr", **U)
    metric = build(spec, nn.Linear(2, 2), curvature_dtype=torch.bfloat16).metric
    assert metric._precision.autocast is torch.bfloat16
    assert build(SGD, nn.Linear(2, 2), curvature_dtype=torch.bfloat16).metric is None
    with pytest.raises(ValueError, match="curvature_dtype=float8 is not known"):
        build(spec, nn.Linear(2, 2), curvature_dtype="float8")


def test_llqr_probe_sam_only_probes():
    method = build(dict(SAM, probe="llqr", **U), nn.Linear(2, 2))
    assert method.optimizer.probe is method.metric
    assert not isinstance(method.optimizer.transport, LLQR)


@pytest.mark.parametrize(
    ("changes", "part", "kind", "values"),
    [
        ({"probe": "fisher", "fisher_eta": 0.2, "fisher_form": "kim"}, "probe", FisherDiagonal,
         {"eta": 0.2, "form": "kim"}),
        ({"probe": "adaptive", "asam_eta": 0.03}, "probe", Adaptive, {"eta": 0.03}),
        ({"probe": "noise", "noise_decay": 0.8, "noise_delta": 0.1}, "probe", GradientNoise,
         {"decay": 0.8, "delta": 0.1}),
        ({"direction": "friendly", "friendly_sigma": 0.5, "friendly_decay": 0.7}, "direction", Friendly,
         {"sigma": 0.5, "decay": 0.7}),
        ({"direction": "variance_suppressed", "vasso_theta": 0.4}, "direction", VarianceSuppressed, {"theta": 0.4}),
    ],
)  # fmt: skip
def test_parts_get_their_numbers(changes, part, kind, values):
    optimizer = build(dict(SAM, **changes), nn.Linear(2, 2)).optimizer
    assert isinstance(optimizer, SharpnessAware)
    assert type(getattr(optimizer, part)) is kind
    assert {name: getattr(getattr(optimizer, part), name) for name in values} == values


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        (SAM, {"rho": -1.0}, "optim.rho=-1.0 must be >= 0"),
        (SAM, {"norm": "max"}, "optim.norm=max is not known. Choose from: metric, euclidean"),
        (SAM, {"interval": 5}, "optim.interval=5 has no meaning for optim=sam"),
        (SAM, {"start_step": None}, "optim.start_step is missing, and optim=sam needs it"),
        (SGD, {"rho": 0.1}, "optim.rho=0.1 has no meaning for optim=sgdm"),
        (SGD, {"base": "lion"}, "optim.base=lion is not known. Choose from: sgd, adam, adamw"),
        (SGD, {"lr": float("nan")}, "optim.lr=nan must be > 0"),
        (dict(SGD, transport="llqr", **U), {"interval": 0}, "optim.interval=0 must be >= 1"),
        (dict(SGD, transport="llqr", **U), {"ema": 1.0}, r"optim.ema=1.0 must be in \[0, 1\)"),
        (dict(SGD, transport="llqr", **U), {"structure": "full"}, "optim.structure=full is not known"),
        (dict(SGD, base="adam", momentum=None, betas=[0.9, 0.9]), {"betas": [0.9]}, "must be two numbers"),
    ],
)
def test_mistakes_are_named(spec, changes, message):
    with pytest.raises(ValueError, match=message):
        build(dict(spec, **changes), nn.Linear(2, 2))
