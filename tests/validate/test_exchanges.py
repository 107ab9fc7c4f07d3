"""Collectives alone: times of a list, predicted and measured by one definition, and one list for real."""

import pytest

from mpsim.result.model import Result, Spans
from mpsim.simulation import simulate_collectives
from mpsim.topology.builders import fully_connected
from mpsim.validate.cases import LOOPBACK
from mpsim.validate.exchanges import EXCHANGES, Exchange, compare_exchange, durations, validate_exchanges
from mpsim.validate.text import exchange_table

KIB = 1024


def test_the_lists_are_those_that_were_asked_for():
    full = EXCHANGES["full"]
    assert {one.ranks for one in full} == {2, 4, 8}
    sizes = {size for one in full for size in one.sizes}
    assert (min(sizes), max(sizes)) == (KIB, 64 * KIB * KIB)


def test_each_collective_takes_from_the_end_of_the_one_before():
    spans = Spans(
        name=("a", "a", "b"), kind=("notice", "all_reduce", "all_reduce"), axis=("",) * 3, devices=((0, 1),) * 3,
        stage=(-1,) * 3, microbatch=(-1,) * 3, bytes=(0, 8, 8), start_s=(0.0, 0.25, 1.5), end_s=(0.25, 1.0, 4.0),
    )  # fmt: skip
    result = Result(
        workload="w", topology="t", plan="p", step_s=4.0, trial_step_s=(4.0,), free_step_s=None, spans=spans
    )
    assert durations(result) == [1.0, 3.0]


def test_gloo_takes_twice_the_latencies_of_a_textbook_ring():
    topology = fully_connected(4, link="1GB/s@1ms")
    gloo = simulate_collectives([64], topology, runtime="torch-gloo")
    ideal = simulate_collectives([64], topology)
    assert gloo.step_s == pytest.approx(12e-3, rel=1e-3)
    assert ideal.step_s == pytest.approx(6e-3, rel=1e-3)
    assert (gloo.runtime, ideal.runtime) == ("torch-gloo", "ideal")


def test_two_ranks_whose_ring_is_played_message_by_message_have_one_time_for_each_collective():
    found = durations(simulate_collectives([64, 64, 64], fully_connected(2, link="1GB/s@1ms"), runtime="torch-gloo"))
    assert found == pytest.approx([4e-3] * 3, rel=1e-3)


@pytest.mark.slow
def test_a_list_is_exchanged_over_loopback_once():
    one = Exchange(ranks=2, wire=LOOPBACK, sizes=(KIB, 256 * KIB), repeats=3)
    rows = compare_exchange(one)
    assert [row.bytes for row in rows] == [KIB, 256 * KIB]
    assert all(row.measured_p5_s <= row.measured_s <= row.measured_p95_s for row in rows)
    assert validate_exchanges([one], done=rows) == rows
    assert "2 ranks" in exchange_table(rows)
