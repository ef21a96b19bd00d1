"""What can be trained, and whether a spec can work: the face of the catalog. No torch."""

from workers.jobs.entries import DATASETS, MODELS, POLICIES, Entry
from workers.jobs.paths import PathOutside, confine
from workers.jobs.validation import validate

__all__ = ["DATASETS", "MODELS", "POLICIES", "Entry", "PathOutside", "confine", "validate"]
