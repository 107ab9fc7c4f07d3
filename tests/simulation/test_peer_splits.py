"""A peer's training steps: every row that shares our model of a link is reproduced, each other explained."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "peer_splits.py"


@pytest.fixture(scope="module")
def peer():
    spec = importlib.util.spec_from_file_location("peer_splits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def comparisons(peer):
    return [peer.compare(row) for row in peer.read_rows()]


def test_rows_of_the_same_model_are_reproduced(comparisons):
    same = [one for one in comparisons if one.verdict == "same model"]
    assert len(same) == 21
    assert [one for one in same if abs(one.error) > 1e-4] == []


def test_the_others_are_switches_that_store_and_forward(comparisons):
    other = [one for one in comparisons if one.verdict != "same model"]
    assert len(other) == 5
    assert {(one.row.shape, one.row.aware, one.hops) for one in other} == {("Switch", True, 2)}
    assert [one for one in other if abs(one.error) < 0.01] == []
    assert [one for one in other if abs(one.given_error) > 1e-4] == []


def test_gpipe_is_the_formula(comparisons):
    """(M + S - 1)(f + b) + 2(S - 1) t, with t the time of a message."""
    for one in comparisons:
        if one.row.case == "gpipe":
            wire, given = one.row.wire, one.row.parameters
            t = one.hops * wire.latency_s + given["A"] / wire.bandwidth_bytes_per_s
            steps = given["M"] + given["stages"] - 1
            expected_s = steps * (given["f_us"] + given["b_us"]) * 1e-6 + 2 * (given["stages"] - 1) * t
            assert one.ours_s == pytest.approx(expected_s, rel=1e-12)


def test_the_peers_1f1b_does_not_block(peer, comparisons):
    """16 message times beyond (M + S - 1)(f + b); were a send to hold its sender, 19."""
    for one in comparisons:
        if one.row.case == "1f1b":
            t = one.hops * one.row.wire.latency_s + one.row.parameters["A"] / one.row.wire.bandwidth_bytes_per_s
            assert one.ours_s == pytest.approx(33e-3 + 16 * t, rel=1e-12)
            assert peer.blocking_s(one.row) == pytest.approx(33e-3 + 19 * t, rel=1e-12)


def test_the_page_is_what_the_script_writes(peer, comparisons):
    assert peer.PAGE.read_text() == peer.page(comparisons)
