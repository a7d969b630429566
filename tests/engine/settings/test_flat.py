from __future__ import annotations

from typing import Any

import pytest

from llqr_sam.engine.settings.flat import flat, setting_types


@pytest.mark.parametrize("optim", ["sgdm", "llqr_sam"])
def test_every_setting_of_a_run_has_a_dotted_key_and_a_type(make_settings: Any, optim: str) -> None:
    settings = make_settings(optim)
    values, types = flat(settings.as_dict()), setting_types()
    assert set(values) <= set(types)
    assert (values["arch.width"], values["protocol.milestones"], values["seed"]) == (4, [], 0)
    assert (types["arch.width"], types["protocol.milestones"], types["seed"]) == (int, list[int], int)
