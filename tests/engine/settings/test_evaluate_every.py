from __future__ import annotations

import pytest

from llqr_sam.engine.settings.evaluate_every import EvaluateEvery
from llqr_sam.engine.settings.run_settings import ProtocolSettings


@pytest.mark.parametrize(
    ("text", "setting", "steps"),
    [
        (None, None, 390),
        ("1epochs", None, 390),
        ("1epoch", None, 390),
        ("2epochs", "2epochs", 780),
        ("2000steps", "2000steps", 2000),
        ("1step", "1steps", 1),
    ],
)
def test_a_number_of_steps_or_epochs(text: str | None, setting: str | None, steps: int) -> None:
    """One text for each meaning, which reads as itself: it is part of the run's id."""
    every = EvaluateEvery.parse(text)
    assert every.setting == setting
    assert EvaluateEvery.parse(every.setting) == every
    assert every.steps(390) == steps
    assert ProtocolSettings(epochs=1, batch_size=1, evaluate_every=text).evaluate_every == setting


@pytest.mark.parametrize(
    "text", ["", "2000", "steps", "0steps", "-1epochs", "1.5epochs", "2000 steps", "2hours", "2Epochs"]
)
def test_anything_else_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=f"^protocol.evaluate_every={text} must be a number of steps or epochs in one"):
        EvaluateEvery.parse(text)
