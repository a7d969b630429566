from __future__ import annotations

from importlib.metadata import version

import list_base_optimizers
import pytest

from llqr_sam.repository import ROOT


@pytest.mark.slow
def test_the_document_lists_what_works_here() -> None:
    """Of the pinned versions, which ``constraints.txt`` installs."""
    pytest.importorskip("pytorch_optimizer")
    text = (ROOT / "docs" / "base_optimizers.md").read_text()
    if f"torch {version('torch').partition('+')[0]} and pytorch_optimizer {version('pytorch_optimizer')}," not in text:
        pytest.skip("the list in docs/base_optimizers.md is of other versions")
    listed = text.partition("<!-- list -->\n")[2].partition("\n<!-- end of list -->")[0]
    assert "\n\n".join(list_base_optimizers.sections()) == listed


def test_a_class_that_has_no_default_rate_is_listed_with_the_key() -> None:
    pytest.importorskip("pytorch_optimizer")
    settings, needed = list_base_optimizers.settings_of("pytorch_optimizer.Ranger21")
    assert needed == ["optim.base_args.num_iterations"]
    assert settings.lr == 1e-3
