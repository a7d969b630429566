#!/usr/bin/env python3
"""Prepare German-English text for training: tokenise, learn subwords, binarise. Needs `make nmt`.

    python scripts/prepare_iwslt14.py                                the public IWSLT14 archive, to data/iwslt14
    python scripts/prepare_iwslt14.py --archive ~/de-en.tgz          the same, without a download
    python scripts/prepare_iwslt14.py --name multi30k --source DIR   a folder of train, valid and test .de/.en files

The archive goes through the steps of fairseq's prepare-iwslt14.sh: clean, tokenise, lower-case, every 23rd pair to
valid, 10,000 joint merges. No checksum is published for it: if the test sentences of a download are not those of
IWSLT14, the command stops and prints its SHA-256; given that as --sha256, it continues. The text of a folder is used
line by line, only tokenised and lower-cased.

It may be started twice at once, and interrupted: the same command continues.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs without an installation

from data_preparation.bitext import BitextError
from data_preparation.download import PreparationError
from data_preparation.subwords import ARCHIVE_URL, prepare_archive, prepare_folder

from llqr_sam.data.translation import CORPORA
from llqr_sam.engine.observers.unread import until_unread
from llqr_sam.fairseq_compat import MissingFairseqError


def main(arguments: list[str] | None = None) -> int:
    """Prepare what the command line asks for and print where it is; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _check_combination(parser, options)
    target: Path = options.root / options.name
    try:
        if options.source:
            made = prepare_folder(
                target, options.source, merges=options.merges, train=options.train, tokenised=options.tokenised
            )
        elif options.name != "iwslt14":
            raise BitextError(f"--name {options.name} needs --source: only iwslt14 has an archive.")
        else:
            archive = {"archive": options.archive, "sha256": options.sha256, "url": options.url}
            made = prepare_archive(target, merges=options.merges, **archive)
    except (BitextError, PreparationError, MissingFairseqError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, BitextError) else 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on.", file=sys.stderr)
        return 130
    print(f"{options.name} is at {target}" if made else f"{options.name} is already at {target}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", choices=CORPORA, default="iwslt14", help="data set to make (default: iwslt14)")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder for data sets (default: data)")
    parser.add_argument("--merges", type=_count, default=10_000, help="joint subword merges (default: 10000)")
    text = parser.add_argument_group("a folder of text instead of the archive")
    text.add_argument("--source", type=Path, help="folder with train, valid (or val) and test .de and .en files")
    text.add_argument("--train", metavar="STEM", help="name of its training files, if not train")
    text.add_argument("--tokenised", action="store_true", help="it is tokenised already; @@ joins are undone")
    archive = parser.add_argument_group("the archive")
    archive.add_argument("--archive", type=Path, help="local copy, instead of a download")
    archive.add_argument("--sha256", help="what it must hash to")
    archive.add_argument("--url", default=ARCHIVE_URL, help=f"where it is (default: {ARCHIVE_URL})")
    return parser


def _check_combination(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with one line if options of the archive and of a folder of text are mixed, or the checksum is malformed."""
    given = {"--archive": options.archive, "--sha256": options.sha256}
    if options.source and (unused := [word for word, value in given.items() if value is not None]):
        parser.error(f"{unused[0]} is about the archive, --source about a folder of text: give one of them.")
    if not options.source and (options.train or options.tokenised):
        parser.error(f"{'--train' if options.train else '--tokenised'} is about a folder of text: it needs --source.")
    if options.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", options.sha256):
        parser.error(f"--sha256 {options.sha256} is not a SHA-256: 64 hexadecimal digits, in small letters.")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of merges.")
    return int(text)


if __name__ == "__main__":
    sys.exit(until_unread(main))
