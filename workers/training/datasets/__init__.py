"""Data sets by name, in memory.

``load(spec, settings, model)`` gives a :class:`DataBundle`: fixed splits, each with ``len()`` and
``batch(indices) -> Batch``. Nothing depends on the run's seed, the rank or the order of files on disk: the same spec
gives the same samples at the same indices, everywhere.
"""

from workers.training.batch import Batch, TaskInfo
from workers.training.datasets.bundle import DataBundle, Split
from workers.training.datasets.registry import NAMES, load

__all__ = ["NAMES", "Batch", "DataBundle", "Split", "TaskInfo", "load"]
