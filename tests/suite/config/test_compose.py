from __future__ import annotations

from hydra import initialize_config_dir

from llqr_sam.repository import CONF
from llqr_sam.suite.config.compose import compose_config


def test_composes_with_and_without_a_running_hydra():
    alone = compose_config(["seed=3"])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose_config(["seed=3"]) == alone
    assert alone.seed == 3
    assert alone.dataset.name == "digits"
