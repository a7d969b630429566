"""Two runs side by side: what differs in their settings, around them, and in their curves."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from llqr_sam.engine.records.record import Accuracy, CurvePoint, Flatness, Record, epoch_words
from llqr_sam.engine.settings.flat import flat
from llqr_sam.suite.run.lookup import KnownRun
from llqr_sam.suite.run.run_folder import Epochs

Row = tuple[str, ...]
ROWS = 8  # of the two curves, at most


def comparison(a: KnownRun, b: KnownRun) -> Iterator[str]:
    """The lines of ``scripts/compare.py``."""
    yield f"a  {a.run_id}  {_state(a)}"
    yield f"b  {b.run_id}  {_state(b)}"
    yield from _section("settings", flat(a.config), flat(b.config))
    if a.record is None or b.record is None:
        return
    yield from _section("code, packages, device and data", _provenance(a.record), _provenance(b.record))
    if a.record.weights_sha256 == b.record.weights_sha256:
        yield f"\nweights: equal bit for bit ({a.record.weights_sha256[:12]})"
    elif a.config == b.config:
        yield "\nweights: they differ, of equal settings"
    yield from _scores(a.record, b.record)
    yield from _curves(a.record, b.record)
    if a.record.sharpness is not None and b.record.sharpness is not None:
        yield from _section("sharpness", _flatness(a.record.sharpness), _flatness(b.record.sharpness))


def _state(run: KnownRun) -> str:
    if run.record is not None:
        return f"{run.record.status}  {run.path}"
    epochs = Epochs.read(run.folder)
    so_far = f" at epoch {epoch_words(epochs.done)} of {epochs.planned}" if epochs else ""
    return f"not ended{so_far}, so only its settings are compared  {run.folder}"


def _section(title: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    """A title and the keys whose values differ, or one line if none does."""
    different = [key for key in dict.fromkeys((*a, *b)) if a.get(key) != b.get(key)]
    if not different:
        yield f"\n{title}: equal"
        return
    yield f"\n{title}"
    yield from _aligned([("", "a", "b"), *((key, _text(a.get(key)), _text(b.get(key))) for key in different)])


def _provenance(record: Record) -> dict[str, Any]:
    """What may change a result and is no setting."""
    commit = f"{record.git_commit}{' with changes' * record.git_dirty}" if record.git_commit else None
    samples = record.samples and f"{record.samples.train} training, {record.samples.test} test"
    own = {"commit": commit, "device": record.device, "devices": record.devices, "resumes": record.resumes}
    return own | {"data": record.data_sha256, "samples": samples} | record.packages


def _flatness(flatness: Flatness) -> dict[str, Any]:
    values: dict[str, Any] = {f"eigenvalue {n}": value for n, value in enumerate(flatness.eigenvalues, start=1)}
    values |= {"trace": flatness.trace, "m-sharpness": flatness.m_sharpness}
    return values | {"rho": flatness.rho, "m": flatness.m, "samples": flatness.samples}


def _scores(a: Record, b: Record) -> Iterator[str]:
    """Best and last."""
    rows: list[Row] = [("", "a", "b", "a - b")]
    for name in ("best", "last"):
        ours, theirs = getattr(a.metrics, name), getattr(b.metrics, name)
        rows.append((name, _words(ours), _words(theirs), _difference(ours.score, theirs.score)))
    yield "\nscores"
    yield from _aligned(rows)


def _curves(a: Record, b: Record) -> Iterator[str]:
    """Where the curves part, by how much they differ, and some of their evaluations."""
    theirs = {point.epoch: point for point in b.metrics.curve}
    pairs = {point.epoch: (point, theirs[point.epoch]) for point in a.metrics.curve if point.epoch in theirs}
    if not pairs:
        yield "\ncurves: no evaluation is after the same epoch"
        return
    parted = next((epoch for epoch, (p, q) in pairs.items() if _result(p) != _result(q)), None)
    if parted is None:
        yield f"\ncurves: equal at all {len(pairs)} common evaluations"
        return
    gaps = [p.score - q.score for p, q in pairs.values() if p.score is not None and q.score is not None]
    mean = f"; a - b is {statistics.fmean(gaps):+.2f} on average over {len(gaps)} evaluations" if gaps else ""
    yield f"\ncurves: they differ from epoch {epoch_words(parted)} on{mean}"
    epochs = list(pairs)
    rows: list[Row] = [("epoch", "a", "b", "a - b")]
    for epoch in sorted({*epochs[:: -(-len(epochs) // ROWS)], parted, epochs[-1]}):
        first, second = (point.score for point in pairs[epoch])
        rows.append((epoch_words(epoch), _score(first), _score(second), _difference(first, second)))
    yield from _aligned(rows)


def _words(accuracy: Accuracy) -> str:
    return "-" if accuracy.score is None else f"{accuracy.words} (epoch {epoch_words(accuracy.epoch)})"


def _result(point: CurvePoint) -> tuple[float | None, ...]:
    """What an evaluation measured."""
    return point.train_loss, point.test_loss, point.top1, point.bleu


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.2f}"


def _difference(a: float | None, b: float | None) -> str:
    return "" if a is None or b is None else f"{a - b:+.2f}"


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _aligned(rows: Sequence[Row]) -> Iterator[str]:
    """Rows with their columns below each other."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    for row in rows:
        yield "  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
