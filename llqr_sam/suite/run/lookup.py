"""From what a person types for a run to what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llqr_sam.engine import plugins
from llqr_sam.engine.records.record import Record, read_record
from llqr_sam.engine.records.typed_json import DamagedRecordError
from llqr_sam.engine.records.weights import NOTE, read_note
from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.suite.config.errors import UsageError, did_you_mean, usage_errors
from llqr_sam.suite.run.run_folder import Begun, find_record, record_files

SHOWN = 6  # run ids in a message


@dataclass(frozen=True)
class KnownRun:
    """A run that has begun or ended."""

    run_id: str
    config: dict[str, Any]  # RunSettings.as_dict()
    folder: Path  # in the workspace; it need not be there
    record: Record | None = None  # of a run that has ended
    path: Path | None = None  # of the record


def settings_of(run: KnownRun) -> RunSettings:
    """The settings of a run; a UsageError if they cannot be read here, which says the plugins that are not imported."""
    try:
        return RunSettings.from_dict(run.config)
    except (KeyError, ValueError) as error:
        names = plugins.lacking(run.record.packages) if run.record else []
        trained = f" It was trained with plugins=[{','.join(names)}]." if names else ""
        reason = f"it has no settings {error}, so another version made it" if isinstance(error, KeyError) else error
        raise UsageError(f"{run.run_id} cannot be read here: {reason}{trained}") from error


@usage_errors()
def find_run(name: str, results: Path, workspace: Path) -> KnownRun:
    """The run that ``name`` means, with its record in ``results/runs`` and its folder in ``workspace``.

    Args:
        name: A run id, the beginning of one alone, the file of a record, or a run's folder in a workspace.
        results: Folder of records.
        workspace: Folder of unfinished runs and of kept weights.

    Raises:
        UsageError: No run or several are meant, or the record is damaged.
    """
    path = Path(name).expanduser()
    if path.is_file():
        record = read_record(path)
        return KnownRun(record.run_id, record.config, workspace / record.run_id, record, path)
    if path.is_dir() and _config(path) is not None:
        return _known(path.resolve().name, results, path.resolve().parent)
    if "/" in name or path.suffix == ".json":
        raise UsageError(f"{name} is neither the file of a record nor a run's folder.")
    ids = sorted({*record_files(results), *(folder.name for folder in workspace.glob("*/") if _config(folder))})
    meant = [name] if name in ids else [run_id for run_id in ids if run_id.startswith(name)]
    if len(meant) > 1:
        more = f" and {len(meant) - SHOWN} others" if len(meant) > SHOWN else ""
        raise UsageError(f"{name} is the beginning of {len(meant)} runs: {', '.join(meant[:SHOWN])}{more}.")
    if not meant:
        where = f"There is no run {name} in {results / 'runs'} or {workspace}"
        raise UsageError(f"{where}{did_you_mean(name, ids)}")
    return _known(meant[0], results, workspace)


def _known(run_id: str, results: Path, workspace: Path) -> KnownRun:
    found, damaged = find_record(run_id, record_files(results, run_id).get(run_id, []))
    folder = workspace / run_id
    if found is not None:
        return KnownRun(run_id, found[1].config, folder, found[1], found[0])
    config = _config(folder)
    if config is None:
        raise UsageError(f"{run_id} has no record that can be read: {damaged[0] if damaged else 'it is gone'}.")
    return KnownRun(run_id, config, folder)


def _config(folder: Path) -> dict[str, Any] | None:
    """The settings of the run of a folder, which it keeps while it has not ended or has kept its weights."""
    if (begun := Begun.read(folder)) is not None:
        return begun.config
    try:
        return read_note(folder).config if (folder / NOTE).exists() else None
    except (OSError, DamagedRecordError):
        return None
