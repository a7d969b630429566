#!/usr/bin/env python3
"""Fetch a data set once, before training; split CIFAR into pieces where one large file cannot be copied.

    python scripts/prepare_data.py cifar100                     # about 170 MB, to data/cifar100.npz
    python scripts/prepare_data.py tinyimagenet --root /scratch/data
    python scripts/prepare_data.py cifar10 --archive ~/cifar-10-python.tar.gz    # no network
    python scripts/prepare_data.py cifar100 --split pieces      # data/cifar100.npz to image files of 18 MB at most
    python scripts/prepare_data.py cifar100 --join pieces       # those that are there, to data/cifar100.npz
    python scripts/prepare_data.py cifar10 --split few --images 640 256    # the first training and test images

It may be started twice at once, and interrupted: the next call continues. digits needs no preparation, and imagenet
prints how to arrange it. --join writes its file anew each time, from the pieces that are there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs without an installation

from data_preparation.download import PREPARABLE, PreparationError, prepare
from data_preparation.pieces import join, split

from llqr_sam.engine.observers.unread import until_unread

IMAGENET = """\
ImageNet cannot be downloaded without an account (https://image-net.org). Arrange the 2012 images by class as
    {root}/imagenet/train/<wnid>/<image>.JPEG     1,281,167 images in 1,000 folders
    {root}/imagenet/val/<wnid>/<image>.JPEG       50,000 images in the same 1,000 folders
or keep them elsewhere and name that folder: python train.py dataset=imagenet dataset.path=FOLDER ..."""
IN_PIECES = ("cifar10", "cifar100")


def main(arguments: list[str] | None = None) -> int:
    """Prepare what the command line asks for and print where it is; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=[*PREPARABLE, "imagenet", "digits"])
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder for data sets (default: data)")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--archive", type=Path, help="local copy of the official archive, instead of a download")
    ways.add_argument("--split", type=Path, metavar="FOLDER", help="write the data set to this folder in pieces")
    ways.add_argument("--join", type=Path, metavar="FOLDER", help="make the data set from the pieces in this folder")
    parser.add_argument(
        "--images", type=int, nargs=2, metavar=("N", "M"), help="with --split: only the first N and M images"
    )
    options = parser.parse_args(arguments)
    in_pieces = options.split or options.join
    if in_pieces and options.dataset not in IN_PIECES:
        parser.error(f"--split and --join are for {' and '.join(IN_PIECES)}, not for {options.dataset}")
    if options.images and not options.split:
        parser.error("--images has no use without --split")
    if options.dataset == "imagenet":
        print(IMAGENET.format(root=options.root))
        return 0
    if options.dataset == "digits":
        print("digits comes with scikit-learn: nothing to prepare.")
        return 0
    try:
        if in_pieces:
            print(split_or_join(options))
            return 0
        target, made = prepare(options.dataset, options.root, options.archive)
    except (PreparationError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on.", file=sys.stderr)
        return 130
    print(f"{options.dataset} is at {target}" if made else f"{options.dataset} is already at {target}")
    return 0


def split_or_join(options: argparse.Namespace) -> str:
    """Split or join, and return a line that says what is where."""
    archive = options.root / f"{options.dataset}.npz"
    if options.split:
        files = split(archive, options.split, images=options.images and tuple(options.images))
        largest = max(file.stat().st_size for file in files) / 1e6
        return f"{options.dataset} is in {options.split}: {len(files)} files of at most {largest:.1f} MB"
    return f"{options.dataset} is at {archive}: {join(options.join, archive)}"


if __name__ == "__main__":
    sys.exit(until_unread(main))
