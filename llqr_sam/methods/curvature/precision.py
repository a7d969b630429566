"""In what precision the curvature is computed: g, J v, J' u and H v, and nothing of U.

A refresh spends nearly all of its time in these. On a GPU whole float32 costs several times what the lower precisions
of its matrix units do, which training steps use.
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
    """That of the parameters, float32 or float64, or a lower one.

    Attributes:
        autocast: The network is called under autocast to this dtype, as a training step calls it. The loss is float32.
        tf32: Float32 matrix products and convolutions may keep TF32's 10 bits of 23. It changes nothing on a CPU.
        eps: Spacing of the numbers that products are made of; 0 is that of the parameters.
    """

    autocast: torch.dtype | None = None
    tf32: bool = False
    eps: float = 0.0

    def network(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """Around the call of the network.

        Casts of weights are not kept from call to call: a trace would find those of another call.
        """
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, self.autocast, cache_enabled=False)

    @contextlib.contextmanager
    def products(self, device: torch.device) -> Iterator[None]:
        """Around whatever is computed with the network, backward passes too.

        PyTorch's older switches are set: a mixture with ``fp32_precision`` raises.
        """
        if not self.tf32 or device.type != "cuda":
            yield
            return
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
    """What ``LLQR(curvature_dtype=...)`` asks for.

    Args:
        curvature_dtype: ``None``, "tf32" or ``torch.bfloat16``.
        dtype_of_factors: Of U, float32 or float64.

    Raises:
        ValueError: it is another, or the model is in double precision, which neither autocast nor TF32 lowers.
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
