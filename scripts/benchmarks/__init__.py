"""The studies of scripts/bench.py."""
