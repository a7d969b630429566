"""Chooses the value of a hyper-parameter for each row of a table, once all runs of the baseline have ended.

The criterion is the paper's ("based on baseline best performance", appendix C), here the mean over the seeds.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.schema import SCORES
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.plan.selected_values import Choice, read_choice, write_choice
from llqr_sam.suite.status.status import KINDS, Status

CRITERION = "highest mean over seeds of the best score over training, {}; of equals the first; none with a diverged run"


@dataclass(frozen=True)
class Candidate:
    """A value, and the results of the baseline's runs with it."""

    choice: Choice
    runs: Sequence[Planned]
    status: Status

    @cached_property
    def kinds(self) -> Counter[str]:
        """Number of runs of each of ``KINDS``."""
        return Counter(map(self.status.of_run, self.runs))

    @cached_property
    def scores(self) -> list[float]:
        """Best over training, percent or BLEU, of each finished run."""
        finished = [run.run_id for run in self.runs if self.status.of_run(run) == "finished"]
        scores = [self.status.records[run_id].metrics.best.score for run_id in finished]
        return [score for score in scores if score is not None]

    @property
    def mean(self) -> float | None:
        """Mean of ``scores``, rounded so that the order of summation does not decide between equal means."""
        return round(statistics.fmean(self.scores), 6) if self.scores else None

    def __str__(self) -> str:
        mean = "-" if self.mean is None else f"{self.mean:.2f}"
        kinds = [f"{self.kinds[kind]} {kind}" for kind in KINDS[1:] if self.kinds[kind]]
        runs = ", ".join([f"{self.kinds['finished']} of {len(self.runs)} runs", *kinds])
        return f"  {self.choice.value:<8g}  {mean:>8}  {runs}"


def conclude(status: Status, command: Command) -> Iterator[str]:
    """Writes the choice of each row whose runs have all ended; yields lines about scores, choices and missing runs.

    ``status`` is of the command's runs. With ``dry_run=true`` or ``status=true`` nothing is written.
    """
    rows: dict[tuple[str, str], dict[Choice, list[Planned]]] = {}
    for run in status.runs:
        choice = run.choices[-1]
        rows.setdefault((choice.dataset, choice.arch), {}).setdefault(choice, []).append(run)
    score, mixtures = _score(command, status.runs), status.mixtures()
    for (dataset, arch), row in rows.items():
        candidates = [Candidate(choice, runs, status) for choice, runs in row.items()]
        first = candidates[0].runs[0]
        yield f"{first.choices[-1].name} for {dataset} {arch}, best {score} of {first.cell.method}:"
        if dataset in mixtures:
            yield f"  not compared: {mixtures[dataset]}"
            continue
        yield from map(str, candidates)
        yield f"  {_verdict(candidates, command)}"


def _verdict(candidates: Sequence[Candidate], command: Command) -> str:
    """The choice, or why there is none yet; a new one is written."""
    if (kept := read_choice([candidate.choice for candidate in candidates])) is not None:
        seeds = json.loads(kept.path.read_bytes()).get("seeds")
        others = f", chosen from seeds {', '.join(map(str, seeds))}: remove that file to choose again"
        return f"selected: {kept.value:g} ({kept.path}){others if seeds != _seeds(candidates) else ''}"
    runs = sum(len(candidate.runs) for candidate in candidates)
    if unfinished := runs - sum(candidate.kinds[kind] for candidate in candidates for kind in ("finished", "diverged")):
        failed = any(candidate.kinds["failed"] for candidate in candidates)
        advice = " (failed ones with retry=failed)" if failed else ""
        return f"not selected: {unfinished} of {runs} runs are missing; the same command continues{advice}"
    sound = [candidate for candidate in candidates if not candidate.kinds["diverged"]]
    if not sound:
        return "not selected: runs diverged at every candidate"
    best = max(sound, key=lambda candidate: candidate.mean or 0.0)
    if command.config.dry_run or command.config.status:
        return f"complete: the same command without dry_run and status selects {best.choice.value:g}"
    write_choice(best.choice, _tree(candidates, command))
    return _verdict(candidates, command)  # read it back: another command may have written first


def _score(command: Command, runs: Sequence[Planned]) -> str:
    """Whose best over training counts: of held-out training images, where the runs hold some out."""
    if any(run.settings.dataset.validation for run in runs):
        return "validation top-1"
    return SCORES[command.table.metric]


def _seeds(candidates: Sequence[Candidate]) -> list[int]:
    return [run.settings.seed for run in candidates[0].runs]


def _tree(candidates: Sequence[Candidate], command: Command) -> dict[str, Any]:
    """The numbers that the choice was made from, for the selection's file."""
    first = candidates[0]
    return {
        "table": command.table.number,
        "key": first.choice.key,
        "dataset": first.choice.dataset,
        "arch": first.choice.arch,
        "optim": first.runs[0].cell.method,
        "seeds": _seeds(candidates),
        "criterion": CRITERION.format(_score(command, first.runs)),
        "candidates": [
            {
                "value": candidate.choice.value,
                "mean": candidate.mean,
                "scores": candidate.scores,
                "diverged": candidate.kinds["diverged"],
                "runs": [run.run_id for run in candidate.runs],
            }
            for candidate in candidates
        ],
    }
