from __future__ import annotations

from collections.abc import Iterator

import pytest

from llqr_sam.suite.config import sources


@pytest.fixture(autouse=True)
def _conf_alone() -> Iterator[None]:
    """The user's folders of a test are those of no other."""
    yield
    sources.use()
