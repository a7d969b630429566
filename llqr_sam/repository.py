"""Paths in the repository that the package reads: configuration, cluster profiles and the paper's numbers."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
CONF = ROOT / "conf"
PROFILES = ROOT / "slurm"
PAPER = ROOT / "results" / "paper"
