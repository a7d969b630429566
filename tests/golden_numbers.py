"""The authors' numbers (tests/golden): the small network they belong to, and their arrays in our layout.

Their flat order sorts keys at every level (layers_0, layers_2, layers_4; bias before kernel) and stores kernels as
(in, out), the transpose of PyTorch's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "golden"
LAYERS = {0: "layers_0", 2: "layers_2", 4: "layers_4"}
EMA = {"ngd": 0.95, "newton": 0.9}
FILE_OF_STRUCTURE = {"diagonal": "diagonal", "kfac": "kfac", "ekfac": "ekfac", "diag_kfac": "diagkfac"}


def arrays(name: str, folder: Path = FOLDER) -> dict[str, Tensor]:
    """All arrays of one golden file as float64 tensors."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as archive:
        return {key: torch.from_numpy(archive[key].copy()) for key in archive.files if key != "__desc__"}


def problem(name: str = "mlp") -> tuple[nn.Sequential, Tensor, Tensor]:
    """The network at the golden parameters of that name, its inputs ``[24, 12]`` and targets ``[24]``."""
    base = arrays(f"{name}_base")
    net = nn.Sequential(
        nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5), nn.LogSoftmax(-1)
    ).double()
    net.load_state_dict(unflatten(base["params_flat"]) if name == "mlp" else _by_layer(base, "params"))
    return net, base["x"], base["y"].long()


def _by_layer(base: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The arrays ``<prefix>.<layer>.Dense_0.kernel`` and ``.bias`` under our names and in our layout."""
    named = {}
    for index, layer in LAYERS.items():
        named[f"{index}.weight"] = base[f"{prefix}.{layer}.Dense_0.kernel"].T
        named[f"{index}.bias"] = base[f"{prefix}.{layer}.Dense_0.bias"]
    return named


def unflatten(flat: Tensor) -> dict[str, Tensor]:
    """A vector in the golden flat order -> parameter name -> tensor."""
    named, start = {}, 0
    for index, (m, n) in {0: (12, 16), 2: (16, 16), 4: (16, 5)}.items():
        named[f"{index}.bias"] = flat[start : start + n]
        named[f"{index}.weight"] = flat[start + n : start + n + m * n].view(m, n).T
        start += n + m * n
    assert start == len(flat)
    return named


def flatten(named: Mapping[str, Tensor]) -> Tensor:
    """Inverse of ``unflatten``."""
    return torch.cat([part for i in LAYERS for part in (named[f"{i}.bias"], named[f"{i}.weight"].T.reshape(-1))])


def in_golden_layout(factors: Mapping[str, Mapping[str, Tensor]], structure: str) -> dict[str, Tensor]:
    """``LLQR.named_factors()`` under the golden names and shapes."""
    out = {}
    for index, layer in LAYERS.items():
        weight, bias = factors[f"{index}.weight"], factors[f"{index}.bias"]
        if structure == "diagonal":
            out[layer] = torch.cat([bias["d"], weight["d"].T.reshape(-1)])
            continue
        out[f"{layer}.Dense_0.bias"] = bias["d"]
        kernel = f"{layer}.Dense_0.kernel"
        if structure == "kfac":
            out |= {f"{kernel}.A": weight["A"][0], f"{kernel}.B": weight["B"][0]}
        elif structure == "diag_kfac":
            out |= {f"{kernel}.A": weight["a"][0], f"{kernel}.B": weight["b"][0]}
        else:
            scale = weight["D"][0].T.reshape(-1)
            out |= {f"{kernel}.QA": weight["Q_A"][0], f"{kernel}.QG": weight["Q_B"][0], f"{kernel}.d": scale}
    return out


def symmetric(triangle: Tensor, size: int = 565) -> Tensor:
    """Row-major upper triangle -> full symmetric matrix."""
    rows, columns = torch.triu_indices(size, size)
    full = triangle.new_zeros(size, size)
    full[rows, columns] = triangle
    full[columns, rows] = triangle
    return full
