"""The default data set: scikit-learn's 1,797 real handwritten digits, 8 x 8 (UCI optical recognition, test part)."""

from __future__ import annotations

import numpy as np
import torch

from llqr_sam.data.arrays import ImageArrays


def read_digits() -> ImageArrays:
    """1,297 training and 500 test images ``[N, 1, 8, 8]``, always the same; grey levels 0..16 are scaled to 0..255."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    split = train_test_split(images, labels, test_size=500, random_state=0, stratify=labels)
    train_images, test_images, train_labels, test_labels = (torch.from_numpy(part) for part in split)
    return ImageArrays(train_images, train_labels, test_images, test_labels)
