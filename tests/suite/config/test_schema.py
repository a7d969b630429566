from __future__ import annotations

from dataclasses import fields

from llqr_sam.engine.settings.run_settings import ProtocolSettings, RunSettings
from llqr_sam.suite.config.schema import ProtocolConfig, Schema


def test_schema_holds_every_setting_of_a_run():
    """What decides a run's result can be configured, under the same name."""
    assert {field.name for field in fields(RunSettings)} <= {field.name for field in fields(Schema)}
    assert {field.name for field in fields(ProtocolSettings)} <= {field.name for field in fields(ProtocolConfig)}
