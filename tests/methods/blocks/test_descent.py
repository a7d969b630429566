"""The heavy ball and its clip."""

from __future__ import annotations

import torch

from llqr_sam.methods.blocks.descent import HeavyBall


def test_clip_only_shortens():
    clip = HeavyBall(clip_norm=5.0).clip(torch.tensor([0.0, 4.0, 25.0, 100.0, -1e-9]))
    torch.testing.assert_close(clip, torch.tensor([1.0, 1.0, 1.0, 0.5, 1.0]))


def test_steps_follow_the_recursion_each_entry_clipped_alone():
    """G <- G * 5 / max(5, |G|); buf <- G + 0.9 buf; U <- U - 1e-3 buf (golden/README)."""
    descent = HeavyBall()
    gradients = [torch.stack([torch.full((2, 2), 10.0), torch.full((2, 2), 1.0)]).double() for _ in range(3)]
    factor, buffer = torch.zeros(2, 2, 2).double(), torch.zeros(2, 2, 2).double()
    for gradient in gradients:
        descent.step(factor, buffer, gradient)
    travelled = 1e-3 * (1 + 1.9 + 2.71)
    torch.testing.assert_close(-factor[0], torch.full((2, 2), 2.5 * travelled).double())
    torch.testing.assert_close(-factor[1], torch.full((2, 2), 1.0 * travelled).double())
