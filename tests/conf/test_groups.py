"""Every file of conf/ says what it is, composes, and gives the values of the paper's protocol."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from omegaconf import OmegaConf

from llqr_sam.data.registry import OWN
from llqr_sam.engine.tasks.registry import archs, datasets, task_for
from llqr_sam.methods.blocks.assembly import Structure
from llqr_sam.methods.metrics import GradientNoise
from llqr_sam.methods.settings import NoiseSettings
from llqr_sam.models.libraries import LIBRARIES
from llqr_sam.repository import CONF
from llqr_sam.suite.config.command_line import groups
from tests.suite.plans import settings_of

FILES = sorted(CONF.rglob("*.yaml"))
KNOWN = [name for name in datasets() if name not in OWN]
LEARNS = ("llqr", "llqr_sam", "llqr_probe_sam", "llqr_f_sam")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_file_opens_with_a_comment_and_names_no_python(path):
    """A config is read without running code from it: no ``_target_``."""
    text = path.read_text()
    assert text.startswith("# ")
    assert "_target_" not in text


def test_groups_offer_what_the_rooms_have():
    assert set(groups()["dataset"]) == set(datasets()) == {*groups()["protocol"], *OWN}
    assert set(groups()["arch"]) == set(archs())
    assert set(groups()["structure"]) == {"none", "paper", *get_args(Structure)}
    assert set(groups()["geometry"]) == {"none", "ngd", "newton"}


@pytest.mark.parametrize("dataset", KNOWN)
@pytest.mark.parametrize("optim", groups()["optim"])
def test_every_optimizer_is_valid_on_every_protocol(optim, dataset):
    """Planning validates; a method that learns a metric gets NGD and the protocol's blocks."""
    settings = settings_of(f"dataset={dataset}", f"optim={optim}").optim
    assert settings.name == optim
    assert (settings.llqr is not None) is (optim in LEARNS)
    if settings.llqr is not None:
        assert settings.llqr.divergence == "ngd"
        assert settings.llqr.structure == ("ekfac" if dataset == "imagenet" else "diagonal")


def test_info_sam_is_the_librarys():
    """conf/ and ``SharpnessAware(base, probe=GradientNoise())`` name one method."""
    sam, library = settings_of("dataset=cifar100", "optim=info_sam").optim.sam, GradientNoise()
    assert (sam.perturbation.norm, sam.probe) == (library.norm, NoiseSettings(library.decay, library.delta))


@pytest.mark.parametrize("arch", [name for name in archs() if name not in LIBRARIES])
def test_every_architecture_has_a_data_set(arch):
    dataset = next(name for name in KNOWN if arch in task_for(name).archs_for(name))
    assert settings_of(f"dataset={dataset}", f"arch={arch}").arch.name == arch


# docs/methods.md, section 3.1 (paper, appendix C), for `dataset=... arch=... optim=...`.
EXPECTED: list[tuple[str, dict[str, Any]]] = [
    ("dataset=cifar10 optim=sgdm", {"base": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "rho": None}),
    ("dataset=cifar10 optim=sam", {"rho": 0.1, "norm": "metric", "batch_norm": "perturbed", "start_step": 0}),
    ("dataset=cifar100 optim=sam", {"rho": 0.2, "probe": "identity"}),
    ("dataset=tinyimagenet optim=sam", {"rho": 0.2, "lr": 0.05}),
    ("dataset=imagenet optim=sam", {"rho": 0.075, "lr": 0.1, "weight_decay": 1e-4}),
    ("dataset=cifar100 optim=fisher_sam", {"rho": 0.1, "fisher_eta": 0.1, "fisher_form": "authors"}),
    ("dataset=cifar100 arch=resnet18 optim=f_sam", {"friendly_decay": 0.6, "friendly_sigma": 1.0, "rho": 0.2}),
    ("dataset=cifar100 arch=vgg16_bn optim=f_sam", {"friendly_decay": 0.6}),
    ("dataset=cifar10 arch=wrn28_10 optim=f_sam", {"friendly_decay": 0.9, "rho": 0.1}),
    ("dataset=cifar10 arch=wrn34_10 optim=f_sam", {"friendly_decay": 0.9}),
    ("dataset=cifar100 arch=pyramidnet110 optim=llqr_f_sam", {"friendly_decay": 0.9, "ema": 0.95}),
    ("dataset=imagenet optim=llqr_f_sam", {"friendly_decay": 0.95, "rho": 0.075, "structure": "ekfac"}),
    (
        "dataset=cifar100 optim=llqr_sam",
        {"ema": 0.95, "interval": 500, "refresh_batch": 128, "inner_steps": 50, "inner_lr": 1e-3, "clip_norm": 5.0},
    ),
    ("dataset=cifar100 optim=llqr_sam geometry=newton", {"ema": 0.9, "divergence": "newton", "rho": 0.2}),
    ("dataset=imagenet optim=llqr", {"interval": 1500, "refresh_batch": 256, "reduction": "sum", "probe": None}),
    ("dataset=cifar100 optim=llqr_probe_sam", {"probe": "llqr", "transport": "identity"}),
    ("dataset=cifar100 optim=llqr_sam structure=kfac", {"structure": "kfac", "probe": "llqr", "transport": "llqr"}),
    ("dataset=cifar10 optim=asam", {"rho": 0.5, "asam_eta": 0.01}),
    ("dataset=cifar100 optim=vasso", {"vasso_theta": 0.9, "rho": 0.2, "direction": "variance_suppressed"}),
    (
        "dataset=iwslt14 optim=adamw",
        {"base": "adamw", "lr": 5e-4, "betas": [0.9, 0.98], "weight_decay": 1e-4, "momentum": None, "probe": None},
    ),
    (
        "dataset=iwslt14 optim=sam",
        {"base": "adamw", "lr": 5e-4, "betas": [0.9, 0.98], "rho": 0.005, "start_step": 4000},
    ),
    (
        "dataset=iwslt14 optim=llqr_sam",
        {"base": "adamw", "rho": 0.005, "ema": 0.925, "interval": 500, "refresh_batch": 48, "structure": "diagonal"},
    ),
    ("dataset=iwslt14 optim=sgdm", {"base": "sgd", "momentum": 0.9, "betas": None}),
    ("dataset=cifar100 optim=adam", {"base": "adam", "lr": 1e-3, "momentum": None, "betas": [0.9, 0.999]}),
]


@pytest.mark.parametrize(("words", "expected"), EXPECTED, ids=[words for words, _ in EXPECTED])
def test_methods_get_the_papers_numbers(words, expected):
    keys = settings_of(*words.split()).optim.as_keys()
    assert {key: keys.get(key) for key in expected} == expected


def test_protocols_are_the_papers():
    cifar = settings_of("dataset=cifar100").protocol
    assert (cifar.epochs, cifar.batch_size, cifar.schedule, cifar.label_smoothing) == (200, 128, "cosine", 0.0)
    imagenet = settings_of("dataset=imagenet").protocol
    assert (imagenet.epochs, imagenet.batch_size, imagenet.schedule) == (100, 256, "step")
    assert (imagenet.milestones, imagenet.gamma, imagenet.label_smoothing) == ((30, 70, 90), 0.1, 0.1)
    iwslt14 = settings_of("dataset=iwslt14", "optim=adamw").protocol
    assert (iwslt14.epochs, iwslt14.batch_size, iwslt14.max_tokens) == (133, None, 16384)
    assert (iwslt14.schedule, iwslt14.warmup_steps) == ("inverse_sqrt", 4000)
    assert (iwslt14.label_smoothing, iwslt14.dropout) == (0.1, 0.3)


def test_the_architecture_follows_the_data_set_unless_named():
    assert settings_of("dataset=imagenet").arch.name == "resnet50"
    assert settings_of("dataset=tinyimagenet").arch.name == "resnet18"
    assert settings_of("arch=vgg16_bn", "dataset=cifar10").arch.name == "vgg16_bn"


def test_data_of_your_own_have_a_protocol(tmp_path):
    """Ours, whatever the name; named protocols keep what they say."""
    own = settings_of("dataset=npz", f"dataset.path={tmp_path}/flowers.npz", "optim=llqr_sam")
    assert (own.protocol.epochs, own.protocol.batch_size, own.protocol.schedule) == (30, 128, "cosine")
    assert own.optim.base.lr == 0.05
    named = settings_of("dataset=npz", f"dataset.path={tmp_path}/flowers.npz", "optim=sam", "protocol=cifar100")
    assert (named.protocol.epochs, named.optim.sam.perturbation.rho) == (200, 0.2)


def test_the_protocol_follows_the_data_set_unless_named():
    assert settings_of("dataset=cifar10", "protocol=cifar100", "optim=sam").as_dict()["optim"]["rho"] == 0.2


def test_precisions_differ_from_the_default_only_where_they_say():
    default = OmegaConf.load(CONF / "precision" / "default.yaml")
    bfloat16 = settings_of("precision=bfloat16").precision
    assert (bfloat16.autocast, bfloat16.channels_last, bfloat16.accumulate) == ("bfloat16", True, default.accumulate)
    assert settings_of("precision=deterministic").precision.deterministic
    assert bfloat16.curvature_dtype is settings_of("precision=deterministic").precision.curvature_dtype is None
    assert settings_of("precision=fast").precision.curvature_dtype is torch.bfloat16
