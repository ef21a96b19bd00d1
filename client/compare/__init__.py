"""Comparisons: workloads x arms x seeds as jobs of a service, paired by seed, against full and shortened training.

::

    comparison = load("policies.json")
    runs = expand(comparison)
    folder = Folder(Path("runs/policies"))
    execute(runs, client, folder)                      # resumable; each run is a job
    document = analyse(comparison, runs, folder.results(runs))
    write(document, folder.root)                       # comparison.json, comparison.md, plots
"""

from client.compare.analyse import analyse
from client.compare.definition import Comparison, load, parse
from client.compare.errors import ComparisonError, PlotsMissing
from client.compare.execute import Outcome, check, execute
from client.compare.expand import Run, expand
from client.compare.folder import Folder
from client.compare.write import write

__all__ = [
    "Comparison",
    "ComparisonError",
    "Folder",
    "Outcome",
    "PlotsMissing",
    "Run",
    "analyse",
    "check",
    "execute",
    "expand",
    "load",
    "parse",
    "write",
]
