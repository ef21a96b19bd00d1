"""Interval of a mean of few values. Pure; standard library alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

_T = (12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814, 2.20099, 2.17881,
      2.16037, 2.14479, 2.13145, 2.11991, 2.10982, 2.10092, 2.09302, 2.08596, 2.07961, 2.07387, 2.06866, 2.06390,
      2.05954, 2.05553, 2.05183, 2.04841, 2.04523, 2.04227)  # fmt: skip
"""97.5 % quantile of Student's t by degrees of freedom, from 1; beyond them the last, which is a little too wide."""


def student(values: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % interval of the mean by Student's t (1908), for values whose scatter is as unknown as their mean; none
    below two."""
    n = len(values)
    if n < 2:
        return None, None
    mean, reach = fmean(values), _T[min(n - 1, len(_T)) - 1] * stdev(values) / math.sqrt(n)
    return mean - reach, mean + reach
