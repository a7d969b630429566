#!/usr/bin/env python3
"""Fetch a data set once, before training.

    python scripts/prepare_data.py cifar100                     # about 170 MB, to data/cifar100.npz
    python scripts/prepare_data.py tinyimagenet --root /scratch/data
    python scripts/prepare_data.py cifar10 --archive ~/cifar-10-python.tar.gz    # no network

Safe to start twice at once, and to interrupt: the next call goes on. digits needs nothing; imagenet explains itself.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs without an installation

from llqr_sam.data.download import PREPARABLE, PreparationError, prepare

IMAGENET = """\
ImageNet cannot be downloaded without an account (https://image-net.org). Arrange the 2012 images by class as
    {root}/imagenet/train/<wnid>/<image>.JPEG     1,281,167 images in 1,000 folders
    {root}/imagenet/val/<wnid>/<image>.JPEG       50,000 images in the same 1,000 folders
or keep them elsewhere and name that folder: python train.py dataset=imagenet dataset.path=FOLDER ..."""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, prepare, and say where the data is; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=[*PREPARABLE, "imagenet", "digits"])
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder for data sets (default: data)")
    parser.add_argument("--archive", type=Path, help="local copy of the official archive, instead of a download")
    options = parser.parse_args(arguments)
    if options.dataset == "imagenet":
        print(IMAGENET.format(root=options.root))
        return 0
    if options.dataset == "digits":
        print("digits comes with scikit-learn: nothing to prepare.")
        return 0
    try:
        target, made = prepare(options.dataset, options.root, archive=options.archive, progress=show)
    except (PreparationError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on.", file=sys.stderr)
        return 130
    print(f"{options.dataset} is at {target}" if made else f"{options.dataset} is already at {target}")
    return 0


def show(done: int, total: int | None) -> None:
    """One line on a terminal, rewritten; nothing in a log file."""
    if sys.stderr.isatty():
        share = f" of {total / 1e6:.0f}" if total else ""
        print(f"\rdownloaded {done / 1e6:.0f}{share} MB", end="\n" if done == total else "", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
