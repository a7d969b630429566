"""The paper's claims and the scales at which they are tested, as ``conf/claims.yaml`` describes them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from llqr_sam.methods.settings import require
from llqr_sam.report.tables.labels import method_label
from llqr_sam.repository import CONF
from llqr_sam.suite.config.errors import usage_errors
from llqr_sam.suite.config.schema import SCORES, TableMethod
from llqr_sam.suite.plan.plan import Cell

FILE = CONF / "claims.yaml"
KINDS = ("difference", "growth", "ratio")
# What is shown on one axis: differences under label noise are of another size.
FAMILIES = ("Difference in test score", "Difference in test score under label noise", "Ratio of measurements")
SCORE, SECONDS, M_SHARPNESS = "score", "seconds", "m_sharpness"
MEASURES = {
    SCORE: "test score",
    "hessian_top": "top eigenvalue",
    "hessian_trace": "Hessian trace",
    M_SHARPNESS: "m-sharpness",
    SECONDS: "training time",
}


@dataclass
class Scale:
    """Where claims are tested: the words that select the runs of their tables, or tables of its own."""

    name: str = MISSING
    title: str = MISSING  # read after "at": reduced scale
    words: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)  # in place of the claims' own


@dataclass
class Claim:
    """A sentence of the paper: method ``a`` lies on one side of method ``b``."""

    name: str = MISSING
    sentence: str = MISSING
    tables: list[str] = MISSING
    a: TableMethod = MISSING
    b: TableMethod = MISSING
    kind: str = "difference"
    sign: int = 1  # 1: the effect lies above the bound, -1: below
    bound: float | None = None  # in what is shown: points or a ratio; None: no effect
    noisy: bool = False  # only rows with label noise
    metric: str = "top1"  # of the tables that count: scores of different units are not pooled
    measures: list[str] = field(default_factory=lambda: [SCORE])  # the first decides

    def __post_init__(self) -> None:
        known, measures = f"is not possible. Choose from: {', '.join(KINDS)}", list(MEASURES)
        require(self.kind in KINDS, f"{self.name}.kind", self.kind, known)
        require(self.sign in (1, -1), f"{self.name}.sign", self.sign, "must be 1 or -1")
        fits = set(self.measures) <= set(measures[1:] if self.is_ratio else measures[:1])
        choices = ", ".join(measures[1:]) if self.is_ratio else SCORE
        require(bool(self.measures) and fits, f"{self.name}.measures", self.measures, f"must be of: {choices}")
        problem = f"is not possible. Choose from: {', '.join(SCORES)}"
        require(self.metric in SCORES, f"{self.name}.metric", self.metric, problem)
        positive = not self.is_ratio or self.bound is None or self.bound > 0
        require(positive, f"{self.name}.bound", self.bound, "must be > 0 for a ratio")

    @property
    def is_ratio(self) -> bool:
        """Whether the effect is a ratio. Its statistics are those of its logarithm."""
        return self.kind == "ratio"

    @property
    def family(self) -> str:
        """One of ``FAMILIES``."""
        plain, noisy, ratio = FAMILIES
        if self.is_ratio:
            return ratio
        return noisy if self.noisy or self.kind == "growth" else plain

    @property
    def threshold(self) -> float:
        """The bound in the units of the statistics."""
        if self.is_ratio:
            return math.log(1.0 if self.bound is None else self.bound)
        return self.bound or 0.0

    def shown(self, value: float) -> float:
        """A number of the statistics as it is shown: the logarithm of a ratio as the ratio."""
        return math.exp(value) if self.is_ratio else value

    @property
    def versus(self) -> str:
        """``LLQR+SAM (NGD) - SAM``, or with ``/`` for a ratio."""
        a, b = method_label(column(self.a)), method_label(column(self.b))
        return f"{a} {'/' if self.is_ratio else '-'} {b}"


def column(method: TableMethod) -> Cell:
    """A method as a cell of no row, for its labels."""
    return Cell("", "", 0.0, method.optim, method.geometry)


@dataclass
class Claims:
    """The file's contents."""

    scales: list[Scale] = MISSING
    claims: list[Claim] = MISSING


@usage_errors()
def read_claims(file: Path = FILE) -> Claims:
    """Read ``conf/claims.yaml``. A wrong type, an unknown key or an impossible value is an error of ``MISTAKES``."""
    read: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Claims), OmegaConf.load(file)))
    assert isinstance(read, Claims)
    return read
