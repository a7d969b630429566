from __future__ import annotations

import pickle
from dataclasses import fields

import pytest

from llqr_sam.engine.settings.run_settings import ProtocolSettings, RunSettings
from llqr_sam.suite.config import schema
from llqr_sam.suite.config.schema import ProtocolConfig, Schema


def test_schema_holds_every_setting_of_a_run():
    """What decides a run's result can be configured, under the same name."""
    assert {field.name for field in fields(RunSettings)} <= {field.name for field in fields(Schema)}
    assert {field.name for field in fields(ProtocolSettings)} <= {field.name for field in fields(ProtocolConfig)}


@pytest.mark.parametrize("name", ["DatasetConfig", "ArchConfig", "MethodConfig", "ProtocolConfig", "PrecisionConfig"])
def test_the_classes_made_here_are_found_by_other_processes(name):
    """Hydra's submitit launcher pickles the schema: a class that is not found by its name would be copied, wrongly."""
    made = getattr(schema, name)
    assert pickle.loads(pickle.dumps(made)) is made
