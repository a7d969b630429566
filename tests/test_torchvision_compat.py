"""The import shim, each time in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.parametrize(
    "first_attempt",
    [
        pytest.param("", id="fresh"),
        pytest.param("try:\n    import torchvision\nexcept RuntimeError:\n    pass\n", id="after a failed import"),
    ],
)
def test_torchvision_imports_and_works(first_attempt: str) -> None:
    """Datasets, transforms and timm work afterwards, and a second call changes nothing."""
    result = run_python(
        first_attempt
        + "from llqr_sam.torchvision_compat import ensure_torchvision\n"
        + "ensure_torchvision(); ensure_torchvision()\n"
        + "import torch, timm, torchvision.datasets\n"
        + "from torchvision.transforms import v2\n"
        + "print(tuple(v2.CenterCrop(8)(torch.zeros(3, 16, 16)).shape))\n"
    )
    assert result.stdout.strip() == "(3, 8, 8)", result.stderr


def test_other_import_failures_pass_through() -> None:
    """Only the missing operators are cured: any other failure is shown as it is."""
    result = run_python(
        "import sys\n"
        "from llqr_sam.torchvision_compat import ensure_torchvision\n"
        "sys.modules['torchvision'] = None\n"
        "try:\n    ensure_torchvision()\nexcept ImportError:\n    print('passed through')\n"
    )
    assert result.stdout.strip() == "passed through", result.stderr
