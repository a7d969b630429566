"""Images of your own in class folders: ``train/`` and ``val/`` with a folder for each class, or class folders alone."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from llqr_sam.data.imagenet import ImageFiles, ImageFolders, check_same_classes
from llqr_sam.data.own import TEST_FRACTION, ReadOptions, check_no_fraction
from llqr_sam.data.streams import DatasetInfo
from llqr_sam.data.subsets import split

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 64  # of images, where none is asked for
_TEST_FOLDERS = ("val", "valid", "test")  # the first that there is


@dataclass(frozen=True)
class OwnFolders(ImageFolders):
    """Images of one's own: two folders with equal names of files may differ, so the files' sizes count too."""

    def fingerprint(self) -> str:
        """SHA-256 of the names and sizes of the images."""
        digest = hashlib.sha256()
        for files in (self.train, self.test):
            for name in files.names:
                size = os.stat(os.path.join(os.fsencode(files.folder), name)).st_size
                digest.update(b"%s %d\n" % (name, size))
            digest.update(b"\n")
        return digest.hexdigest()


def read_class_folders(folder: Path, options: ReadOptions) -> tuple[ImageFolders, DatasetInfo]:
    """List the images; class k is the k-th folder in alphabetical order. Images are decoded in training.

    Args:
        folder: It has ``train/<class>/`` and, to test on, ``val/``, ``valid/`` or ``test/`` (the first of them), or
            ``<class>/`` alone. Where there is nothing to test on, a part of each class's images is split off.
        options: The side, and the fraction to split off.

    Raises:
        MissingDataError: A class has no images.
        ValueError: There are fewer than two classes, classes differ, or a class has too few images to be split.
    """
    if not folder.is_dir():
        raise ValueError(f"dataset.path={folder} is not a folder: it must hold train/ and val/, or a folder per class.")
    test = next((folder / name for name in _TEST_FOLDERS if (folder / name).is_dir()), None)
    train = folder / "train" if (folder / "train").is_dir() else folder
    if test is not None and train == folder:
        raise ValueError(f"{folder} has {test.name}/ and no train/: it must have both, or a folder per class alone.")
    classes = _subfolders(train)
    if len(classes) < 2:
        raise ValueError(f"{train} must have a folder for each of two classes or more, but has {len(classes)}.")
    files = ImageFiles.of(train, classes)
    if test is None:
        kept, held_out = split(str(train), files.labels, options.test_fraction or TEST_FRACTION)
        whole = OwnFolders(files.chosen(kept), files.chosen(held_out))
    else:
        check_no_fraction(str(folder), options)
        check_same_classes(train, classes, test, _subfolders(test))
        whole = OwnFolders(files, ImageFiles.of(test, classes))
    side = options.image_size or SIDE
    return whole, DatasetInfo(len(classes), side, 3, IMAGENET_MEAN, IMAGENET_STD, whole.samples)


def _subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without what systems and notebooks leave there."""
    return sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith((".", "__")))
