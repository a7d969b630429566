"""An outside judge of every curvature product: curvlinops' Hessian, GGN and Fisher operators.

For cross-entropy the generalised Gauss-Newton matrix is the Fisher matrix of the softmax, so their GGN, averaged over
the minibatch, is our "ngd" with ``reduction="mean"``.

What they are given computes the same function, written so that they can judge it: classes on axis 1; layer norm from
elementary operations, because their products are vmapped and torch 2.13 batches its second derivatives wrongly; no
fused inference path of the encoder layer, which has no forward mode. Ours are given the network as it is.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from llqr_sam.methods.curvature.likelihoods import Categorical
from llqr_sam.methods.curvature.point import point_of
from llqr_sam.methods.curvature.products import Fisher, Hessian
from llqr_sam.methods.named import Named, dot
from llqr_sam.torchvision_compat import ensure_torchvision
from tests.methods.networks import NETWORKS, mean_loss

curvlinops = pytest.importorskip("curvlinops")


class ClassesSecond(nn.Module):
    """``[B, T, C]`` -> ``[B, C, T]``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).movedim(-1, 1)


class PlainLayerNorm(nn.Module):
    """A layer norm over the last axis, with the parameters of another one."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight + self.bias


def vision_transformer() -> tuple[nn.Module, Tensor, Tensor]:
    """timm's, of two blocks on four patches."""
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    net = VisionTransformer(
        img_size=8, patch_size=4, in_chans=2, num_classes=4, embed_dim=8, depth=2, num_heads=2, mlp_ratio=2
    )
    return net.double(), torch.randn(3, 2, 8, 8, dtype=torch.float64), torch.randint(0, 4, (3,))


PROBLEMS = {"cnn": NETWORKS["conv"], "vit": vision_transformer, "transformer": NETWORKS["transformer"]}


@pytest.fixture(autouse=True)
def _differentiable_kernels():
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH):
        yield
    torch.backends.mha.set_fastpath_enabled(True)


def _with_plain_layer_norms(net: nn.Module) -> nn.Module:
    """A copy whose layer norms are plain; parameter names and order stay."""
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.LayerNorm):
                setattr(parent, name, PlainLayerNorm(child))
    return net.eval()


def _theirs(operator, net, x, y, v: Named, **options) -> Named:
    """Their operator's product with v, in inference mode."""
    plain = _with_plain_layer_norms(net)
    parameters = dict(plain.named_parameters())
    assert list(parameters) == list(v)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    matrix = operator(ClassesSecond(plain), loss, list(parameters.values()), [(x, y)], **options)
    return dict(zip(parameters, matrix @ [v[n] for n in parameters], strict=True))


def _relative_error(actual: Named, expected: Named) -> float:
    error = {n: actual[n] - expected[n] for n in expected}
    return float((dot(error, error) / dot(expected, expected)).sqrt())


def _random_like(net: nn.Module) -> Named:
    return {n: torch.randn_like(p) for n, p in net.named_parameters()}


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_newton_is_their_hessian(name):
    net, x, y = PROBLEMS[name]()
    v = _random_like(net)
    ours = Hessian("for comparison").at(point_of(net, x, y, mean_loss)).product(v)
    assert _relative_error(ours, _theirs(curvlinops.HessianLinearOperator, net, x, y, v)) < 1e-10


@pytest.mark.parametrize("name", ["cnn", "vit", pytest.param("transformer", marks=pytest.mark.slow)])
def test_ngd_is_their_gauss_newton_matrix(name):
    """Averaged, or summed and then larger by the number of samples (or tokens)."""
    net, x, y = PROBLEMS[name]()
    v = _random_like(net)
    theirs = _theirs(curvlinops.GGNLinearOperator, net, x, y, v)
    mean = Fisher(Categorical(), "mean").at(point_of(net, x, y, mean_loss)).product(v)
    summed = Fisher(Categorical(), "sum").at(point_of(net, x, y, mean_loss)).product(v)
    assert _relative_error(mean, theirs) < 1e-10
    assert _relative_error(summed, {n: y.numel() * t for n, t in theirs.items()}) < 1e-10


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_ngd_is_what_their_sampled_fisher_estimates(name):
    """Labels drawn from the model: an estimate of F v whose error falls as 1/sqrt(draws)."""
    net, x, y = PROBLEMS[name]()
    v = _random_like(net)
    ours = Fisher(Categorical(), "mean").at(point_of(net, x, y, mean_loss)).product(v)
    few = _theirs(curvlinops.FisherMCLinearOperator, net, x, y, v, mc_samples=20)
    many = _theirs(curvlinops.FisherMCLinearOperator, net, x, y, v, mc_samples=2000)
    assert _relative_error(many, ours) < 0.1
    assert _relative_error(many, ours) < _relative_error(few, ours)
