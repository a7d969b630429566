"""Memory of U by block structure: the paper's Table 9, or any network. Nothing is trained and no data are read.

python scripts/storage.py                                      writes results/tables/table_09.{md,csv,tex}
python scripts/storage.py arch=resnet50                        every structure of one network
python scripts/storage.py arch=vit_tiny dataset=tinyimagenet structure=ekfac shards=4
python scripts/storage.py arch=transformer_iwslt words=8000,6000     of its dictionaries; needs fairseq (make nmt)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llqr_sam.engine import plugins
from llqr_sam.report.tables.printed_table import write_table
from llqr_sam.studies.table_9 import KERNEL_SCALARS, arch_table, dataset_for, print_table_9
from llqr_sam.suite.config.errors import UsageError, did_you_mean, exit_status, usage_errors

WORDS = ("arch", "dataset", "structure", "shards", "words", "output", "plugins")
OUTPUT = "results/tables/table_09"


def main() -> int:
    """Write Table 9, or print the storage of the network that the words name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value", help=f"any of {', '.join(WORDS)}")
    words = _parsed(parser.parse_args().words)
    with usage_errors():
        plugins.load(dict.fromkeys(filter(None, words.get("plugins", "").strip("[]").split(",")), str(Path.cwd())))
    if "arch" not in words:
        if set(words) - {"output", "plugins"}:
            raise UsageError(f"{next(iter(words))}= needs arch=NAME; without it, all of Table 9 is written.")
        paths = write_table(print_table_9(), Path(words.get("output", OUTPUT)))
        print(f"table=9  ->  {', '.join(map(str, paths))}")
        return 0
    arch = words["arch"]
    dataset = words.get("dataset") or dataset_for(arch)
    structures = [words["structure"]] if "structure" in words else list(KERNEL_SCALARS)
    shards = _whole("shards", words.get("shards", "1"))
    sizes = _pair("words", words["words"]) if "words" in words else None
    print(arch_table(arch, dataset, structures, shards, sizes), end="")
    return 0


def _parsed(words: list[str]) -> dict[str, str]:
    """``arch=resnet50`` -> ``{"arch": "resnet50"}``."""
    parsed = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in WORDS:
            raise UsageError(f"{word} is not possible. Keys here: {', '.join(WORDS)}{did_you_mean(key, WORDS)}")
        parsed[key] = value
    return parsed


def _pair(key: str, value: str) -> tuple[int, int]:
    """Two whole numbers, or one for both."""
    first, comma, second = value.partition(",")
    return _whole(key, first), _whole(key, second if comma else first)


def _whole(key: str, value: str) -> int:
    if not value.isdecimal():
        raise UsageError(f"{key}={value} must be a whole number.")
    return int(value)


if __name__ == "__main__":
    sys.exit(exit_status(main))
