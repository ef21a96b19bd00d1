"""Measures of a scored, labelled list of windows. Pure; ties are handled; float64 inside."""

from __future__ import annotations

import math
from collections.abc import Sequence


def roc_auc(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """Probability that a positive scores above a negative, ties half; NaN where one class is missing."""
    positives, negatives = sum(labels), len(labels) - sum(labels)
    if not positives or not negatives:
        return math.nan
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    total, start = 0.0, 0
    while start < len(order):
        end = start
        while end < len(order) and scores[order[end]] == scores[order[start]]:
            end += 1
        rank = (start + end + 1) / 2  # mean of the ranks start + 1 .. end
        total += rank * sum(labels[i] for i in order[start:end])
        start = end
    return (total - positives * (positives + 1) / 2) / (positives * negatives)


def average_precision(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """Area under precision over recall, by steps; equal scores enter together. NaN without a positive."""
    positives = sum(labels)
    if not positives:
        return math.nan
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    hits, seen, area, start = 0, 0, 0.0, 0
    while start < len(order):
        end = start
        while end < len(order) and scores[order[end]] == scores[order[start]]:
            end += 1
        new = sum(labels[i] for i in order[start:end])
        hits, seen = hits + new, seen + end - start
        area += new / positives * hits / seen
        start = end
    return area


def calibration_error(labels: Sequence[bool], probabilities: Sequence[float], bins: int = 10) -> float:
    """Expected calibration error over ``bins`` equal-width bins."""
    groups: list[list[int]] = [[] for _ in range(bins)]
    for index, probability in enumerate(probabilities):
        groups[min(bins - 1, int(probability * bins))].append(index)
    gap = 0.0
    for group in groups:
        if group:
            gap += abs(sum(labels[i] for i in group) - sum(probabilities[i] for i in group))
    return gap / len(labels) if labels else math.nan


def stratified_auc(labels: Sequence[bool], scores: Sequence[float], strata: Sequence[object]) -> float:
    """ROC-AUC over pairs from the same stratum only, e.g. the same tenth of training: what is left of a score once
    the clock is taken out. NaN where no stratum has both classes."""
    groups: dict[object, list[int]] = {}
    for index, stratum in enumerate(strata):
        groups.setdefault(stratum, []).append(index)
    weighted, pairs = 0.0, 0
    for group in groups.values():
        inside = [labels[i] for i in group]
        weight = sum(inside) * (len(inside) - sum(inside))
        if weight:
            weighted += weight * roc_auc(inside, [scores[i] for i in group])
            pairs += weight
    return weighted / pairs if pairs else math.nan


def brier(labels: Sequence[bool], probabilities: Sequence[float]) -> float:
    """Mean squared error of the probabilities."""
    return sum((p - y) ** 2 for y, p in zip(labels, probabilities, strict=True)) / len(labels) if labels else math.nan


def precision_recall(labels: Sequence[bool], probabilities: Sequence[float], threshold: float) -> tuple[float, float]:
    """Precision and recall of freezing above ``threshold``; NaN where undefined."""
    chosen = [label for label, p in zip(labels, probabilities, strict=True) if p > threshold]
    precision = sum(chosen) / len(chosen) if chosen else math.nan
    return precision, sum(chosen) / sum(labels) if any(labels) else math.nan
