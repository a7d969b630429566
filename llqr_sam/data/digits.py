"""The embedded default: scikit-learn's 1,797 real handwritten digits, 8 x 8 (UCI optical recognition, test part)."""

from __future__ import annotations

import numpy as np
import torch

from llqr_sam.data.arrays import ImageArrays

_TEST_SAMPLES = 500
_SPLIT_SEED = 0


def read_digits() -> ImageArrays:
    """1,297 training and 500 test images ``[N, 1, 8, 8]``, grey levels 0..16 scaled to 0..255.

    The split is fixed and has the same share of every class in both parts.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    train, test = train_test_split(
        np.arange(len(images)), test_size=_TEST_SAMPLES, random_state=_SPLIT_SEED, stratify=bunch.target
    )
    labels = bunch.target.astype(np.int64)
    return ImageArrays(
        torch.from_numpy(images[train]),
        torch.from_numpy(labels[train]),
        torch.from_numpy(images[test]),
        torch.from_numpy(labels[test]),
    )
