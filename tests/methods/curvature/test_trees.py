"""Nested minibatches: every tensor is found and replaced, whatever holds it."""

from __future__ import annotations

from collections import UserDict, namedtuple
from types import MappingProxyType

import pytest
import torch

from llqr_sam.methods.curvature.point import mapped, tensors

Pair = namedtuple("Pair", ["first", "second"])


class Batch(dict):
    """As the batches of some libraries, whose fields are attributes too."""

    @property
    def labels(self):
        return self["labels"]


A, B = torch.arange(3), torch.arange(4)


@pytest.mark.parametrize(
    "tree",
    [
        (A, B),
        [A, [B]],
        {"flag": True, "a": A, "rest": ("text", {"b": B}, None)},
        Pair(A, B),
        Batch(a=A, b=B),
        UserDict(a=A, b=B),
        MappingProxyType({"a": A, "b": B}),
    ],
)
def test_tensors_are_found_in_order_and_replaced(tree):
    assert [t.tolist() for t in tensors(tree)] == [[0, 1, 2], [0, 1, 2, 3]]
    changed = mapped(lambda t: t + 1, tree)
    assert [t.tolist() for t in tensors(changed)] == [[1, 2, 3], [1, 2, 3, 4]]
    assert [t.tolist() for t in tensors(tree)] == [[0, 1, 2], [0, 1, 2, 3]]
    assert type(changed) is type(tree) or isinstance(tree, MappingProxyType)


def test_what_is_no_tensor_is_passed_on():
    other = object()
    changed = mapped(lambda t: t * 2, {"a": A, "other": other, "flag": True})
    assert changed["other"] is other
    assert changed["flag"] is True
    assert list(tensors(other)) == []


def test_a_mapping_keeps_its_attributes():
    assert mapped(lambda t: t + 1, Batch(labels=A)).labels.tolist() == [1, 2, 3]
