"""Metrics that are given."""

from __future__ import annotations

import pytest
import torch

from llqr_sam import Metric
from llqr_sam.methods.metrics import NORMS
from llqr_sam.studies.theory.potholes.fixed import FixedMetric, Replicas

MATRIX = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()


def test_a_diagonal_is_the_matrix_with_that_diagonal():
    v = {"a": torch.randn(3, 2).double(), "b": torch.randn(2).double()}
    diagonal = torch.tensor([2.0, 3.0]).double()
    assert all(
        torch.allclose(x, y)
        for x, y in zip(
            FixedMetric(diagonal).apply(v).values(), FixedMetric(torch.diag(diagonal)).apply(v).values(), strict=True
        )
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("metric", [Metric(), FixedMetric(MATRIX)])
def test_each_replica_has_the_probe_it_would_have_alone(metric, norm):
    """Rows of several tensors, one of them zero, against ``Metric.probe`` on each row."""
    v = {"a": torch.randn(3, 2).double(), "b": torch.randn(2, 2).double()}
    v["b"][1] = 0
    together = Replicas(metric).probe(v, 0.3, norm)
    for name, x in v.items():
        for row, epsilon in zip(x, together[name], strict=True):
            assert torch.allclose(metric.probe({"row": row}, 0.3, norm)["row"], epsilon, rtol=1e-14, atol=0)


def test_replicas_count_rows_that_fall_back():
    indefinite = Replicas(FixedMetric(torch.tensor([1.0, -1.0]).double()))
    indefinite.probe({"a": torch.tensor([[2.0, 1.0], [1.0, 2.0], [0.0, 1.0]]).double()}, 0.1)
    assert indefinite.fallbacks == 2


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm=l1 is not known"):
        Replicas(Metric()).probe({"a": torch.ones(1, 2)}, 0.1, "l1")
