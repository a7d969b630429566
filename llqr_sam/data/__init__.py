"""The data sets of the paper, and real digits that need no download. Knows no method."""

from llqr_sam.data.registry import DATASETS, info, load
from llqr_sam.data.streams import DatasetInfo, MissingDataError, Splits, TestBatches, TrainStream

__all__ = ["DATASETS", "DatasetInfo", "MissingDataError", "Splits", "TestBatches", "TrainStream", "info", "load"]
