"""Random numbers that depend on names and numbers only, never on what was drawn before."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derived_seed(*parts: int | str) -> int:
    """A hash of the parts in [0, 2^63): neighbouring seeds, such as 0 and 1, give unrelated streams."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """A fresh generator on ``device``, seeded with ``derived_seed(*parts)``; the global generator is not touched."""
    return torch.Generator(device).manual_seed(derived_seed(*parts))


def shuffled(size: int, *parts: int | str) -> Tensor:
    """A random order of 0 .. size - 1, int64. Drawn on the CPU, so that it is the same on every device."""
    return torch.randperm(size, generator=generator("cpu", *parts))
