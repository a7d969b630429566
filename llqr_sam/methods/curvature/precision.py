"""Precision of the curvature: g, J v, J' u and H v. U itself is always float32 or float64.

A refresh spends nearly all of its time in these, and on a GPU float32 costs several times what bfloat16 or TF32 do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

CurvatureDtype = torch.dtype | Literal["tf32"] | None


@dataclass(frozen=True)
class Precision:
    """The parameters' own precision, float32 or float64, or a lower one.

    Attributes:
        autocast: The network is called under autocast to this dtype, as in training. The loss is float32.
        tf32: Float32 matrix products and convolutions may keep 10 bits of 23 (TF32). No effect on a CPU.
        eps: Relative spacing of the numbers in products; 0 is that of the parameters.
    """

    autocast: torch.dtype | None = None
    tf32: bool = False
    eps: float = 0.0

    def network(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """Context for the call of the network."""
        if self.autocast is None:
            return contextlib.nullcontext()
        # Cast weights are not cached: a trace would find those of another call.
        return torch.autocast(device.type, self.autocast, cache_enabled=False)

    @contextlib.contextmanager
    def products(self, device: torch.device) -> Iterator[None]:
        """Context for everything computed with the network, backward passes too."""
        if not self.tf32 or device.type != "cuda":
            yield
            return
        # These are PyTorch's older switches: mixing them with ``fp32_precision`` raises.
        cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
        try:
            torch.backends.cudnn.allow_tf32 = True
            torch.set_float32_matmul_precision("high")
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = cudnn
            torch.set_float32_matmul_precision(matmul)


WHOLE = Precision()


def precision_of(curvature_dtype: CurvatureDtype, dtype_of_factors: torch.dtype) -> Precision:
    """The precision that ``LLQR(curvature_dtype=...)`` names, for a U of that dtype.

    Raises:
        ValueError: the name is unknown, or the model is in double precision, which neither autocast nor TF32 lowers.
    """
    if curvature_dtype is None:
        return WHOLE
    if curvature_dtype not in ("tf32", torch.bfloat16):
        raise ValueError(f"curvature_dtype={curvature_dtype} is not known. Choose from: None, tf32, torch.bfloat16.")
    if dtype_of_factors == torch.float64:
        raise ValueError(
            f"curvature_dtype={curvature_dtype} lowers float32, and this model is in float64; leave it out."
        )
    if curvature_dtype == "tf32":
        return Precision(tf32=True, eps=2.0**-10)
    return Precision(autocast=torch.bfloat16, eps=torch.finfo(torch.bfloat16).eps)
