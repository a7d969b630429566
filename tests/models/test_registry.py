"""Names, sizes and errors; parameter counts on the meta device, so that nothing large is allocated."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from llqr_sam.models.registry import _ARCHS, build, fits, image_sizes, names, register, takes_width
from tests.waiting import PATIENCE

ARCHS = [name for name in names() if image_sizes(name)]  # the paper's
PARAMETERS = [  # arch, classes, image side, channels, parameters; and where the number is from
    ("small_cnn", 10, 8, 1, 33_658),
    ("vgg16_bn", 10, 32, 3, 15_253_578),  # 15.25M, authors' code
    ("resnet18", 10, 32, 3, 11_173_962),  # 11.17M
    ("wrn28_10", 10, 32, 3, 36_479_194),  # 36.5M, arXiv 1605.07146
    ("wrn34_10", 10, 32, 3, 46_160_474),  # 46.16M, authors' code
    ("pyramidnet110", 10, 32, 3, 18_323_787),  # 18.32M, authors' code
    ("pyramidnet110", 100, 32, 3, 18_426_837),  # 18.43M, authors' code
    ("resnet50", 1000, 224, 3, 25_557_032),
    ("vit_tiny", 200, 64, 3, 5_427_080),  # paper, Table 9
    ("vit_small", 1000, 224, 3, 22_050_664),  # timm's vit_small_patch16_224
    ("vit_base", 1000, 224, 3, 86_567_656),  # paper, Table 9
    ("vit_large", 1000, 224, 3, 304_326_632),  # paper, Table 9
]


@pytest.mark.parametrize(("name", "classes", "side", "channels", "expected"), PARAMETERS)
def test_parameter_count_and_shape(name: str, classes: int, side: int, channels: int, expected: int) -> None:
    with torch.device("meta"):
        model = build(name, classes=classes, image_size=side, channels=channels)
        logits = model(torch.empty(2, channels, side, side))
    assert sum(p.numel() for p in model.parameters()) == expected
    assert logits.shape == (2, classes)


def test_every_arch_is_counted() -> None:
    assert {row[0] for row in PARAMETERS} == set(ARCHS)


@pytest.mark.parametrize("name", ARCHS)
def test_every_image_size_and_channel_count_works(name: str) -> None:
    for side in image_sizes(name):
        with torch.device("meta"):
            model = build(name, classes=7, image_size=side, channels=1)
            assert model(torch.empty(2, 1, side, side)).shape == (2, 7)


@pytest.mark.parametrize("name", ["small_cnn", "vgg16_bn", "resnet18"])
def test_width_is_the_first_stage(name: str) -> None:
    model = build(name, classes=10, image_size=image_sizes(name)[0], width=4)
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    assert takes_width(name)
    assert first.out_channels == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "resnet19", "image_size": 32}, ["arch=resnet19", "resnet18", "vit_large"]),
        ({"name": "resnet50", "image_size": 8}, ["arch=resnet50", "224", "not 8", "small_cnn"]),
        ({"name": "wrn28_10", "image_size": 32, "width": 4}, ["arch.width=4", "wrn28_10", "resnet18"]),
        ({"name": "resnet18", "image_size": 32, "width": 0}, ["arch.width=0", "at least 1"]),
        ({"name": "resnet18", "image_size": 9}, ["16 or more", "not 9", "timm, torchvision"]),
    ],
)
def test_impossible_requests_get_one_sentence(arguments: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ValueError, match="arch") as caught:
        build(classes=10, **arguments)  # type: ignore[arg-type]
    message = str(caught.value)
    assert all(word in message for word in words)
    assert "\n" not in message


def test_importing_models_imports_neither_timm_nor_torchvision() -> None:
    code = "import sys, llqr_sam.models.registry; print({'timm', 'torchvision'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert result.stdout.strip() == "set()", result.stderr


@pytest.mark.parametrize("name", ARCHS)
def test_no_activation_works_in_place(name: str) -> None:
    """An in-place activation would overwrite what double backward and forward mode need."""
    with torch.device("meta"):
        model = build(name, classes=10, image_size=image_sizes(name)[0])
    assert not any(getattr(module, "inplace", False) for module in model.modules())


def test_equal_seeds_give_equal_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build("resnet18", classes=10, image_size=32, width=4).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets what a test registers."""
    monkeypatch.setattr("llqr_sam.models.registry._ARCHS", dict(_ARCHS))


@pytest.mark.usefixtures("registry")
def test_a_registered_network_is_built_like_ours() -> None:
    """It gets the sizes, and of width and arguments those it has parameters for; its name is taken then."""

    def make(classes: int, *, channels: int, image_size: int, depth: int = 1) -> torch.nn.Module:
        layers = [torch.nn.Linear(channels * image_size**2, classes) for _ in range(depth)]
        return torch.nn.Sequential(torch.nn.Flatten(), layers[-1], *layers[:-1])

    register("mine", make)
    assert "mine" in names()
    assert fits("mine", 17)
    model = build("mine", classes=5, image_size=17, channels=2, args={"depth": 3})
    assert len(model) == 4  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="arch.args.dept=3 has no use with arch=mine. Its arguments: depth."):
        build("mine", classes=5, image_size=17, args={"dept": 3})
    with pytest.raises(ValueError, match="arch.width=3 has no use with arch=mine. .*resnet18"):
        build("mine", classes=5, image_size=17, width=3)
    with pytest.raises(ValueError, match="the network mine exists already"):
        register("mine", make)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "resnet18", "model": "convnext_atto"}, "arch.model=convnext_atto has no use with arch=resnet18"),
        ({"name": "resnet18", "pretrained": True}, "arch.pretrained=True has no use with arch=resnet18"),
        ({"name": "timm"}, "arch.model=null must have a value for arch=timm"),
        ({"name": "timm", "model": "test_vit", "args": {"width": 3}}, "arch.args.width=3 has no use with arch=timm"),
    ],
)
def test_an_option_without_use_is_one_sentence(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(classes=10, image_size=64, **options)  # type: ignore[arg-type]


def test_residual_networks_take_any_side_from_16_on() -> None:
    with torch.device("meta"):
        assert build("resnet18", classes=3, image_size=28, channels=1)(torch.empty(2, 1, 28, 28)).shape == (2, 3)
