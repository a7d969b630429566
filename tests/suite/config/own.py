"""Configuration folders of a user, for tests."""

from __future__ import annotations

from pathlib import Path

OPTIM = """\
defaults:
  - part/base@_here_
  - part/probe@_here_
  - _self_

name: mysam
rho: 0.2
"""
TABLE = """\
number: mine
title: Mine beside SGDM
words: [protocol.epochs=1]
datasets: [digits]
archs: [small_cnn]
methods:
  - {optim: sgdm}
  - {optim: mysam}
seeds: [0, 1]
output: ${paths.results}/tables/mine
"""
DATASET = """\
defaults:
  - override /arch@_global_.arch: small_cnn
  - override /protocol@_global_.protocol: digits

name: digits
label_noise: 0.2
"""


def write(folder: Path, **texts: str) -> Path:
    """A folder with the files, ``optim__mysam`` for optim/mysam.yaml; returns the folder."""
    for name, text in texts.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


def whole(folder: Path) -> Path:
    """A folder with an optimizer, a table of it, a data set, a network and a SLURM profile."""
    return write(
        folder,
        optim__mysam=OPTIM,
        table__mine=TABLE,
        dataset__noisy=DATASET,
        arch__narrow="name: small_cnn\nwidth: 4\n",
        slurm__mine="partition: short\n",
    )
