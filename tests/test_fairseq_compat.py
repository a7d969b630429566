"""fairseq beside current Python and Hydra, and its absence."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from llqr_sam.fairseq_compat import MissingFairseqError, ensure_fairseq, fairseq_installed
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.launch.launch import launch
from tests.suite.plans import plan_of
from tests.suite.records import status_of


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if fairseq were not installed."""
    monkeypatch.setitem(sys.modules, "fairseq", None)


@pytest.mark.usefixtures("absent")
def test_its_absence_is_one_line() -> None:
    assert not fairseq_installed()
    with pytest.raises(MissingFairseqError, match="`make nmt`") as caught:
        ensure_fairseq()
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize("words", [("dataset=multi30k", "optim=adamw"), ("table=6",)])
def test_a_run_that_needs_it_says_so_before_anything_else(words: tuple[str, ...], tmp_path: Any) -> None:
    config = Command.of(*words, f"paths.results={tmp_path}", f"paths.workspace={tmp_path / 'work'}").config
    status = status_of(plan_of(*words), tmp_path)
    with pytest.raises(UsageError, match=r"dataset=(multi30k|iwslt14) needs fairseq.*make nmt") as caught:
        launch(status, config)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


AROUND = """
import dataclasses, logging, warnings
from hydra.core.config_store import ConfigStore
from llqr_sam.fairseq_compat import ensure_fairseq
before = dataclasses.dataclass, list(logging.root.handlers), logging.root.level, logging.root.manager.disable
ensure_fairseq()
assert before == (dataclasses.dataclass, list(logging.root.handlers), logging.root.level, logging.root.manager.disable)
assert "config.yaml" not in ConfigStore.instance().repo
import hydra, omegaconf
print(hydra.__version__.rsplit(".", 1)[0], omegaconf.__version__.rsplit(".", 1)[0])
"""


@pytest.mark.nmt
def test_importing_it_leaves_everything_else_alone() -> None:
    """dataclasses, logging and Hydra's schemas are as before; hydra and omegaconf are current; nothing is printed."""
    done = subprocess.run([sys.executable, "-c", AROUND], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("1.3 2.3", "")


@pytest.mark.nmt
def test_plans_are_composed_after_it_as_before() -> None:
    ensure_fairseq()
    assert plan_of("dataset=multi30k", "optim=llqr_sam")
