"""Errors and orders, worked out by hand."""

import pytest

from mpsim.errors import MpsimError
from mpsim.validate.agreement import error_fraction, error_in_spreads, rank_correlation


def test_the_error_is_relative_to_what_was_measured():
    assert error_fraction(3.0, 4.0) == -0.25
    assert error_fraction(5.0, 4.0) == 0.25
    with pytest.raises(MpsimError, match="0 s has no relative error"):
        error_fraction(1.0, 0.0)


def test_the_error_in_spreads_counts_widths_of_the_measured_interval():
    assert error_in_spreads(6.0, 4.0, 3.5, 4.5) == 2.0
    assert error_in_spreads(6.0, 4.0, 4.0, 4.0) is None


def test_rank_correlation_of_equal_and_of_opposite_orders():
    assert rank_correlation([1, 5, 9], [0.1, 0.2, 70.0]) == 1.0
    assert rank_correlation([1, 5, 9], [3.0, 2.0, 1.0]) == -1.0


def test_rank_correlation_as_the_textbook_formula_has_it():
    # Ranks 1 2 3 4 5 against 2 1 4 3 5: squared differences 1+1+1+1+0, so 1 - 6·4 / (5·24).
    assert rank_correlation([1, 2, 3, 4, 5], [20, 10, 40, 30, 50]) == pytest.approx(1 - 24 / 120, abs=1e-12)


def test_equal_values_share_the_mean_of_their_ranks():
    # Ranks 1.5 1.5 3 against 1 2 3: covariance 1.5, variances 1.5 and 2.
    assert rank_correlation([7, 7, 8], [1, 2, 3]) == pytest.approx(1.5 / (1.5 * 2) ** 0.5)


def test_no_order_where_there_are_fewer_than_three_or_all_are_equal():
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    with pytest.raises(MpsimError, match="3 predictions and 2 measurements"):
        rank_correlation([1, 2, 3], [1, 2])
