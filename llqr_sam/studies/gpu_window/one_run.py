"""Trains one run: takes its ``Job`` as JSON, the only argument, and prints its ``Reply`` as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from llqr_sam.suite.run.worker import carry_out

if __name__ == "__main__":
    print(json.dumps(asdict(carry_out(sys.argv[1]))))
