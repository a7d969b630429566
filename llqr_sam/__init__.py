"""Geometry-aware sharpness minimization in PyTorch (arXiv 2605.16134).

    from llqr_sam import LLQR, SharpnessAware

Importing this needs torch alone; the reproduction suite's rooms import what they need themselves, and
``load_network``, which reads what the suite wrote, imports it when it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llqr_sam.methods.curvature.likelihoods import Bernoulli, Categorical, Gaussian
from llqr_sam.methods.curvature.point import UnsupportedModuleError
from llqr_sam.methods.directions import Direction, Friendly, VarianceSuppressed
from llqr_sam.methods.llqr import LLQR, RefreshError, RefreshReport
from llqr_sam.methods.metrics import Adaptive, FisherDiagonal, GradientNoise, Metric
from llqr_sam.methods.sharpness_aware import SharpnessAware

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "LLQR",
    "Adaptive",
    "Bernoulli",
    "Categorical",
    "Direction",
    "FisherDiagonal",
    "Friendly",
    "Gaussian",
    "GradientNoise",
    "Metric",
    "RefreshError",
    "RefreshReport",
    "SharpnessAware",
    "UnsupportedModuleError",
    "VarianceSuppressed",
    "load_network",
]


def load_network(
    run: str | Path, *, workspace: str | Path = "outputs/runs", results: str | Path = "results"
) -> nn.Module:
    """Load the network of a run of the suite that was trained with ``keep_weights=true``.

    The data set need not be there. The weights are checked against the hash in the run's record, if it is found. This
    needs the packages of the suite: ``pip install 'llqr-sam[suite]'``.

    Args:
        run: A run id, the beginning of one alone, the file of a run's record, or the run's folder in the workspace.
        workspace: Folder of kept weights (``paths.workspace``): ``<workspace>/<run id>/weights.pt``, ``weights.json``.
        results: Folder of records (``paths.results``).

    Returns:
        The module on the CPU, in inference mode, from float32 images ``[B, C, S, S]`` to logits ``[B, classes]``. Its
        attribute ``dataset_info`` describes the images: ``classes``, ``channels``, ``image_size`` S, and ``mean`` and
        ``std`` of each channel. An image with pixels x in [0, 1] goes in as (x - mean) / std.

    Raises:
        ValueError: There is no such run or there are several, its weights were not kept or are not those of its
            record, or it is a run of translation, whose network needs the dictionaries of its data set.

    Example:
        network = load_network("digits-small_cnn-sam-s0")
        mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (network.dataset_info.mean, network.dataset_info.std))
        logits = network((images - mean) / std)
    """
    from llqr_sam.suite.weights.network import load

    return load(run, Path(results), Path(workspace))
