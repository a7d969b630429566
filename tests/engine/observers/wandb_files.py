"""Reads the files that W&B writes offline: LevelDB's log format around protocol buffers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768
FILE_HEADER, HEADER = 7, 7
FULL, LAST = 1, 4


def records(path: Path) -> Iterator[Record]:
    """What the file says, in order; a last record that is not whole is left out."""
    content, at, parts = path.read_bytes(), FILE_HEADER, b""
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK  # padding
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        part = content[at + HEADER : at + HEADER + length]
        if not kind or len(part) < length:
            return
        parts += part
        at += HEADER + length
        if kind in (FULL, LAST):
            yield Record.FromString(parts)
            parts = b""


def history(path: Path) -> list[dict[str, Any]]:
    """The rows that were logged."""
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]


def run_of(path: Path) -> Any:
    """How the run was announced: its id, group, job type, tags, configuration."""
    return next(record.run for record in records(path) if record.WhichOneof("record_type") == "run")


def is_closed(path: Path) -> bool:
    """Whether the run was ended in the file."""
    return any(record.WhichOneof("record_type") == "exit" for record in records(path))


def artifacts(path: Path) -> list[Any]:
    """The artifacts that were logged: name, type, manifest."""
    found = (record for record in records(path) if record.WhichOneof("record_type") == "artifact")
    return [record.artifact for record in found]
