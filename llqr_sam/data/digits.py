"""The default data set: scikit-learn's 1,797 real handwritten digits, 8 x 8 (UCI optical recognition, test part)."""

from __future__ import annotations

import numpy as np
import torch

from llqr_sam.data.arrays import ImageArrays

_TEST_SAMPLES = 500
_SPLIT_SEED = 0


def read_digits() -> ImageArrays:
    """1,297 training and 500 test images ``[N, 1, 8, 8]``, grey levels 0..16 scaled to 0..255.

    The split is fixed, with the same share of every class in both parts.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    split = train_test_split(images, labels, test_size=_TEST_SAMPLES, random_state=_SPLIT_SEED, stratify=labels)
    train_images, test_images, train_labels, test_labels = (torch.from_numpy(part) for part in split)
    return ImageArrays(train_images, train_labels, test_images, test_labels)
