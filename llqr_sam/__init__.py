"""Geometry-aware sharpness minimization in PyTorch (arXiv 2605.16134).

    from llqr_sam import LLQR, SharpnessAware

Importing this needs torch alone; the reproduction suite's rooms import what they need themselves.
"""

from llqr_sam.methods.curvature.likelihoods import Bernoulli, Categorical, Gaussian
from llqr_sam.methods.curvature.point import UnsupportedModuleError
from llqr_sam.methods.directions import Direction, Friendly, VarianceSuppressed
from llqr_sam.methods.llqr import LLQR, RefreshError, RefreshReport
from llqr_sam.methods.metrics import Adaptive, FisherDiagonal, GradientNoise, Metric
from llqr_sam.methods.sharpness_aware import SharpnessAware

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
]
