"""How well predictions agree with measurements: errors, spreads, and the order of plans."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import correlation

from mpsim.errors import MpsimError

__all__ = ["error_fraction", "error_in_spreads", "errors_of_pairs", "rank_correlation"]


def error_fraction(predicted: float, measured: float) -> float:
    """Return how much more was predicted than measured, as a part of the measured.

    Raises
    ------
    MpsimError
        What was measured took no time.

    Examples
    --------
    >>> error_fraction(1.1, 1.0) > 0 > error_fraction(0.9, 1.0)
    True
    """
    if not measured > 0:
        raise MpsimError(f"a measured step of {measured:g} s has no relative error: measure again")
    return predicted / measured - 1


def error_in_spreads(predicted: float, measured: float, low: float, high: float) -> float | None:
    """Return the error in units of the measured 5-95 % interval's width; None where nothing varied.

    Examples
    --------
    >>> error_in_spreads(3.0, 2.0, 1.5, 2.5), error_in_spreads(3.0, 2.0, 2.0, 2.0)
    (1.0, None)
    """
    return (predicted - measured) / (high - low) if high > low else None


def rank_correlation(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Return Spearman's correlation of two orders; equal values share the mean of their ranks.

    https://en.wikipedia.org/wiki/Spearman%27s_rank_correlation_coefficient

    Returns
    -------
    float or None
        -1 to 1; None of fewer than three pairs, or where one side has no order at all.

    Raises
    ------
    MpsimError
        Not one measurement for each prediction.

    Examples
    --------
    >>> rank_correlation([1.0, 2.0, 4.0], [10.0, 20.0, 30.0])
    1.0
    >>> rank_correlation([1.0, 2.0, 4.0, 3.0], [10.0, 20.0, 30.0, 40.0])
    0.8
    """
    if len(predicted) != len(measured):
        raise MpsimError(f"{len(predicted)} predictions and {len(measured)} measurements: give one for each")
    if min(len(predicted), len(set(predicted)) + 1, len(set(measured)) + 1) < 3:
        return None
    return round(correlation(_ranks(predicted), _ranks(measured)), 12)


def _ranks(values: Sequence[float]) -> list[float]:
    places: dict[float, list[int]] = {}
    for place, value in enumerate(sorted(values), 1):
        places.setdefault(value, []).append(place)
    return [sum(places[value]) / len(places[value]) for value in values]


def errors_of_pairs(pairs: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """Return the errors of pairs of a prediction and a measurement, and how well their order is kept.

    Returns
    -------
    dict
        ``mean_fraction`` and ``worst_fraction`` without signs, ``bias_fraction`` with its sign, ``rank_correlation``;
        None where there are no pairs, or no order.

    Examples
    --------
    >>> errors_of_pairs([(2.5, 2.0), (3.0, 4.0)])["worst_fraction"], errors_of_pairs([])["bias_fraction"]
    (0.25, None)
    """
    errors = [error_fraction(predicted, measured) for predicted, measured in pairs]
    count = len(errors)
    return {
        "mean_fraction": sum(map(abs, errors)) / count if count else None,
        "worst_fraction": max(map(abs, errors)) if count else None,
        "bias_fraction": sum(errors) / count if count else None,
        "rank_correlation": rank_correlation([one for one, _ in pairs], [other for _, other in pairs]),
    }
