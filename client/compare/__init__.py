"""Comparisons: workloads x arms x seeds as jobs of a service, paired by seed, against full and shortened training.

::

    comparison = load("policies.json")
    runs = expand(comparison)
    folder = Folder(Path("runs/policies"))
    execute_privately(runs, folder, packages)          # resumable; or execute(runs, client, folder) at a service
    document = analyse(comparison, runs, folder.results(runs))
    write(document, folder.root)                       # comparison.json, comparison.md, plots
"""

from client.compare.analyse import analyse
from client.compare.definition import Comparison, load, parse
from client.compare.errors import ComparisonError, PlotsMissing
from client.compare.execute import Outcome, check, execute
from client.compare.expand import Run, expand
from client.compare.folder import Folder
from client.compare.private import execute_privately
from client.compare.progress import ConsoleScreen
from client.compare.write import write

__all__ = [
    "Comparison",
    "ComparisonError",
    "ConsoleScreen",
    "Folder",
    "Outcome",
    "PlotsMissing",
    "Run",
    "analyse",
    "check",
    "execute",
    "execute_privately",
    "expand",
    "load",
    "parse",
    "write",
]
