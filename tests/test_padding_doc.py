"""docs/padding.md is true: its examples run one after the other, and no likelihood in them is complained of."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "padding.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_examples_run_without_a_warning():
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for block in BLOCKS:
            exec(compile(block, "docs/padding.md", "exec"), names)
    assert BLOCKS
