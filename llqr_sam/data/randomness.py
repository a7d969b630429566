"""Random numbers that depend on names and numbers only, never on what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def derived_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that is a hash of the parts: near ones, such as seeds 0 and 1, give unrelated streams."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """A fresh generator on ``device``, seeded with ``derived_seed(*parts)``; the global generator is not touched."""
    return torch.Generator(device).manual_seed(derived_seed(*parts))
