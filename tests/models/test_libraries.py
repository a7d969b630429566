"""Any network of timm or torchvision: right sizes, random weights, differentiable twice, and one sentence where not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llqr_sam.models.libraries import check_name, library_network

SMALL = [("timm", "test_resnet", 32), ("timm", "test_vit2", 64), ("torchvision", "shufflenet_v2_x0_5", 32)]


def network(library: str, model: str, side: int, **changes: Any) -> nn.Module:
    arguments: dict[str, Any] = {"channels": 1, "image_size": side, "model": model} | changes
    return library_network(library, 7, **arguments)


@pytest.mark.parametrize(("library", "model", "side"), SMALL)
def test_classes_channels_and_size_are_the_data_sets(library: str, model: str, side: int) -> None:
    """One channel and another side than the library's; nothing in place, no pass remembered, equal seeds equal bits."""
    made = network(library, model, side)
    assert made(torch.rand(2, 1, side, side)).shape == (2, 7)
    assert not any(getattr(module, "inplace", False) for module in made.modules())
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(network(library, model, side).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    counted = [value for name, value in states[0].items() if name.endswith("num_batches_tracked")]
    assert all(int(value) == 0 for value in counted)


@pytest.mark.parametrize(
    "model", ["test_resnet", *(pytest.param(model, marks=pytest.mark.slow) for model in ("test_vit2", "test_convnext"))]
)
def test_curvature_products(check_curvature_products: Callable[[nn.Module, Tensor], None], model: str) -> None:
    made = network("timm", model, 64, channels=3).double()
    check_curvature_products(made, torch.randn(2, 3, 64, 64, dtype=torch.float64))


def test_arguments_reach_the_network() -> None:
    rates = [m.p for m in network("timm", "test_convnext", 64, drop_rate=0.3).modules() if isinstance(m, nn.Dropout)]
    assert 0.3 in rates


@pytest.mark.parametrize(
    ("library", "changes", "words"),
    [
        ("timm", {"model": "convnext_ato"}, "arch.model=convnext_ato is not a network of timm .*convnext_atto"),
        ("timm", {"model": "convnext_atto.foo"}, "arch.model=convnext_atto.foo is not a network of timm"),
        ("torchvision", {"model": "resnet19"}, "is not a network of torchvision .*resnet18"),
        ("torchvision", {"model": "fcn_resnet50"}, "arch.model=fcn_resnet50 is not a network of torchvision"),
        ("timm", {"model": "test_resnet", "foo": 3}, "arch.args={'foo': 3}: .*unexpected keyword argument 'foo'"),
        (
            "torchvision",
            {"model": "alexnet"},
            "arch.model=alexnet does not take images of 32 x 32 pixels and 1 c",
        ),
        ("timm", {"model": "test_resnet", "features_only": True}, "(does not return logits|cannot be built)"),
    ],
)
def test_what_is_impossible_is_one_sentence(library: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        network(library, side=32, **changes)
    assert "\n" not in str(caught.value)


def test_a_weights_tag_is_part_of_a_name() -> None:
    check_name("timm", "convnext_atto.d2_in1k")


def test_weights_that_cannot_be_fetched_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="weights cannot be fetched for arch.pretrained=true") as caught:
        network("timm", "test_resnet", 32, pretrained=True)
    assert "\n" not in str(caught.value)


def test_torchvisions_weights_are_taken_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the first convolution and the classifier, which have other shapes."""
    from torchvision.models import ShuffleNet_V2_X0_5_Weights, shufflenet_v2_x0_5

    published = {name: torch.full_like(value, 0.5) for name, value in shufflenet_v2_x0_5().state_dict().items()}
    monkeypatch.setattr(ShuffleNet_V2_X0_5_Weights, "get_state_dict", lambda *_, **__: published)
    made = network("torchvision", "shufflenet_v2_x0_5", 32, pretrained=True).state_dict()
    other = [name for name, value in published.items() if not torch.equal(made[name], value)]
    assert other == ["conv1.0.weight", "fc.weight", "fc.bias"]
