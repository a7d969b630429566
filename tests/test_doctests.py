"""The examples in the public docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest

import llqr_sam

MODULES = sorted({getattr(llqr_sam, name).__module__ for name in llqr_sam.__all__})


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(module))
    assert failed == 0


def test_there_are_examples() -> None:
    """One at least for each class that is used by itself."""
    finder = doctest.DocTestFinder(recurse=False)
    with_examples = {
        name for name in llqr_sam.__all__ if any(test.examples for test in finder.find(getattr(llqr_sam, name)))
    }
    assert {"LLQR", "SharpnessAware", "Metric", "FisherDiagonal", "Adaptive", "GradientNoise"} <= with_examples
    assert {"Direction", "Friendly", "VarianceSuppressed"} <= with_examples
