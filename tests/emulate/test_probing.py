"""Ping-pong between real processes on loopback: what is measured, and by whom."""

import pytest

pytest.importorskip("torch")

WORK = """
from mpsim.emulate.probing import measure_links
found = measure_links([(0, 1), (2, 0)], messages=20, repeats=2)
"""


@pytest.mark.slow
def test_both_ways_of_each_pair_are_measured_and_every_rank_is_told(gloo_ranks):
    told = gloo_ranks(3, WORK)
    assert told[0] == told[1] == told[2]
    assert sorted((one.source, one.target) for one in told[0]) == [(0, 1), (0, 2), (1, 0), (2, 0)]
    for one in told[0]:
        # A latency is what is left of a trip without its post: on a busy machine's loopback that may be nothing.
        assert 0 <= one.latency_interval_s[0] <= one.latency_s <= one.latency_interval_s[1]
        low, high = one.bandwidth_interval_bytes_per_s
        assert 0 < low <= one.bandwidth_bytes_per_s <= high
