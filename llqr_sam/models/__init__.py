"""The networks of the paper, and a small one for digits. Knows no method and no data."""

from llqr_sam.models.registry import ARCHS, build, image_sizes

__all__ = ["ARCHS", "build", "image_sizes"]
