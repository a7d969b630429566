"""Sharpness against exact Hessians by two backward passes, in float64 where the network allows it."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

pytest.importorskip("curvlinops")

from llqr_sam.data.loading import load
from llqr_sam.engine.loop.run import execute
from llqr_sam.engine.measurements.flatness import (
    EIGENVALUES,
    TrainingHessian,
    m_sharpness,
    measure_flatness,
    top_eigenvalues,
)
from llqr_sam.engine.records.typed_json import to_json
from llqr_sam.engine.tasks import registry
from llqr_sam.torchvision_compat import ensure_torchvision


class Tokens(nn.Module):
    """Attention and layer norm, over four tokens of four numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x.reshape(-1, 4, 4))
        return self.head((tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]).mean(1))


def convolutions() -> nn.Module:
    """Batch-norm, whose running statistics are not those of the batch."""
    net = nn.Sequential(
        *(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))
    )
    net[2].running_mean.uniform_(-1, 1)
    net[2].running_var.uniform_(0.5, 2)
    return net


def encoder() -> nn.Module:
    """torch's own layer, which has a fused kernel for inference."""
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (4, 4)), layer, nn.Flatten(), nn.Linear(16, 3))


def vit() -> nn.Module:
    """timm's vision transformer, two blocks of width 16 over four patches."""
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(img_size=4, patch_size=2, in_chans=1, num_classes=3, embed_dim=16, depth=2, num_heads=2)
    return nn.Sequential(nn.Unflatten(1, (1, 4, 4)), network)


NETWORKS = {"linear": lambda: nn.Linear(16, 3), "convolutions": convolutions, "tokens": Tokens}
TRANSFORMERS = {"encoder": encoder, "vit": vit}


def problem(name: str) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """A network in inference mode and three minibatches of 8."""
    net = (NETWORKS | TRANSFORMERS)[name]().eval()
    x, y = 2 * torch.randn(24, 16), torch.randint(0, 3, (24,))
    return net, list(zip(x.split(8), y.split(8), strict=True))


def exact_hessian(net: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Of the mean loss over all samples, ``[P, P]`` float64, row by row."""
    net = copy.deepcopy(net).double()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    parameters = list(net.parameters())
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        loss = F.cross_entropy(net(x.double()), y)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True) for entry in flat]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_those_of_the_exact_hessian(name):
    net, batches = problem(name)
    expected = exact_hessian(net, batches)
    found = TrainingHessian(net, batches, F.cross_entropy) @ torch.eye(len(expected))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_eigenvalues_are_the_largest_of_the_exact_hessian(name):
    net, batches = problem(name)
    expected = torch.linalg.eigvalsh(exact_hessian(net, batches)).flip(0)[:EIGENVALUES]
    found = torch.tensor(top_eigenvalues(TrainingHessian(net, batches, F.cross_entropy)))
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=0)


def test_trace_is_exact_where_the_rank_is_low(data):
    """Hutch++ projects on 10 directions. A softmax of 4 samples has a Hessian of rank at most 4 (3 - 1) = 8."""
    net = nn.Linear(16, 3)
    x, y = torch.randn(4, 16), torch.randint(0, 3, (4,))
    found = measure_flatness(net, data(x, y, 4), F.cross_entropy, rho=0.1, m=4, samples=1024)
    assert found.trace == pytest.approx(float(exact_hessian(net, [(x, y)]).trace()), rel=1e-4)
    assert (found.m, found.samples, found.rho) == (4, 4, 0.1)


def test_m_sharpness_by_hand():
    """One ascent step a minibatch, with the gradient's own direction."""
    net, batches = problem("linear")
    rises = []
    for x, y in batches:
        moved = copy.deepcopy(net)
        loss = F.cross_entropy(moved(x), y)
        gradients = torch.autograd.grad(loss, list(moved.parameters()))
        norm = torch.cat([gradient.reshape(-1) for gradient in gradients]).norm()
        with torch.no_grad():
            for parameter, gradient in zip(moved.parameters(), gradients, strict=True):
                parameter.add_(0.5 * gradient / norm)
        rises.append(float(F.cross_entropy(moved(x), y).detach() - loss.detach()))
    assert m_sharpness(net, batches, F.cross_entropy, 0.5) == pytest.approx(sum(rises) / 3, rel=1e-5)


@pytest.mark.parametrize("name", [*NETWORKS, *TRANSFORMERS])
@pytest.mark.parametrize("grad_mode", [True, False])
def test_m_sharpness_vanishes_with_the_radius_and_at_a_stationary_point(name, grad_mode):
    """To the last bit: both losses come from the same kernels, whatever grad mode the caller is in."""
    net, batches = problem(name)
    with torch.set_grad_enabled(grad_mode):
        assert m_sharpness(net, batches, F.cross_entropy, 0.0) == 0.0
        assert m_sharpness(net, batches, lambda outputs, _: 0 * outputs.sum(), 0.1) == 0.0


@pytest.fixture
def data():
    """A training stream of given samples."""

    class Stream:
        def __init__(self, x: Tensor, y: Tensor, batch_size: int) -> None:
            self.x, self.y, self.batch_size, self.size = x, y, batch_size, len(y)

        def sample(self, step: int, size: int) -> tuple[Tensor, Tensor]:
            return self.x[:size], self.y[:size]

    return Stream


def test_the_model_and_the_random_state_stay_as_they_are(tmp_path):
    options = {"crop": "image", "augment": False, "batch_size": 64, "seed": 0, "device": torch.device("cpu")}
    splits = load("digits", path=None, root=tmp_path, label_noise=0.0, workers=0, **options)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first = measure_flatness(model, splits.train, F.cross_entropy, rho=0.1, m=64, samples=1024)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
    second = measure_flatness(model, splits.train, F.cross_entropy, rho=0.1, m=64, samples=1024)
    assert second.eigenvalues == pytest.approx(first.eigenvalues, rel=1e-4)
    assert (second.trace, second.m_sharpness) == pytest.approx((first.trace, first.m_sharpness), rel=1e-4)
    assert (first.m, first.samples) == (64, 1024)
    assert first.eigenvalues == sorted(first.eigenvalues, reverse=True)
    assert len(first.eigenvalues) == EIGENVALUES


@pytest.mark.slow
def test_a_run_is_the_same_with_and_without(make_settings, make_options):
    """Same weights, same id; the record has one key more."""
    settings = make_settings("llqr_sam", epochs=1)
    plain = execute(settings, make_options("plain"))
    measured = execute(settings, make_options("measured", sharpness_rho=0.1))
    assert (measured.weights_sha256, measured.run_id) == (plain.weights_sha256, plain.run_id)
    assert plain.sharpness is None
    assert measured.sharpness is not None
    assert measured.sharpness.eigenvalues[0] > 0
    assert measured.sharpness.m_sharpness > 0
    assert set(json.loads(to_json(measured))) - set(json.loads(to_json(plain))) == {"sharpness"}


def test_a_missing_package_is_said_before_training(make_settings, make_options, monkeypatch, tmp_path):
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="sharpness=true needs curvlinops, which is not installed: pip install"):
        execute(make_settings(), make_options("run", sharpness_rho=0.1))
    assert not (tmp_path / "run").exists()
