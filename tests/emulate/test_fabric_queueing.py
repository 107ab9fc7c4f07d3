"""The switch's arithmetic, in virtual time: exact."""

import math

import pytest

from mpsim.emulate.fabric.queueing import Queueing


def arrivals(network: Queueing) -> dict[object, float]:
    """Return when each packet arrives, by its item."""
    found = {}
    while math.isfinite(at_s := network.next_s()):
        found |= dict.fromkeys(network.due(at_s), at_s)
    return found


def test_a_path_of_three_links_costs_the_bandwidth_once():
    network = Queueing([(1000.0, 0.5), (1000.0, 0.25), (1000.0, 0.125)])
    network.send(1.0, flow="a", path=(0, 1, 2), size_bytes=500, item="x")
    assert arrivals(network) == {"x": 1.0 + 0.5 + 0.5 + 0.25 + 0.125}


@pytest.mark.parametrize("bandwidths", [(1000.0, 500.0), (500.0, 1000.0)])
def test_the_narrowest_link_sets_the_pace(bandwidths):
    network = Queueing([(width, 1.0) for width in bandwidths])
    for i in range(4):
        network.send(0.0, flow="a", path=(0, 1), size_bytes=500, item=i)
    assert arrivals(network) == {i: (i + 1) * 1.0 + 2.0 for i in range(4)}


def test_a_free_link_takes_no_time():
    network = Queueing([(math.inf, 0.0)])
    network.send(3.0, flow="a", path=(0,), size_bytes=10**9, item="x")
    assert arrivals(network) == {"x": 3.0}


def test_a_packet_that_waits_for_one_link_holds_up_none_for_another():
    # Links: up 0, up 1, down 2, down 3. Both ranks send to 2; rank 0 sends to 3 behind that.
    network = Queueing([(1000.0, 0.0)] * 4)
    for i in range(4):
        network.send(0.0, flow="1 to 2", path=(1, 2), size_bytes=1000, item=("1 to 2", i))
        network.send(0.0, flow="0 to 2", path=(0, 2), size_bytes=1000, item=("0 to 2", i))
    network.send(0.0, flow="0 to 3", path=(0, 3), size_bytes=1000, item="0 to 3")
    # After the packet that was on its uplink, and the one whose turn had come; not after all four, nor after down 2.
    assert arrivals(network)["0 to 3"] == 3.0


def test_flows_share_a_link_byte_for_byte_whatever_their_packets():
    network = Queueing([(1000.0, 0.0)])
    for i in range(8):
        network.send(0.0, flow="long", path=(0,), size_bytes=1000, item=("long", i))
    for i in range(40):
        network.send(0.0, flow="short", path=(0,), size_bytes=100, item=("short", i))
    found = arrivals(network)
    # 4,000 bytes of each are through when 8,000 are, but for one packet of each.
    assert found["short", 39] == pytest.approx(8.0, abs=1.1)
    assert found["long", 7] == pytest.approx(12.0)


def test_a_flow_that_comes_late_does_not_wait_for_what_is_queued():
    network = Queueing([(1000.0, 0.0)])
    for i in range(100):
        network.send(0.0, flow="first", path=(0,), size_bytes=1000, item=i)
    assert list(network.due(49.5)) == list(range(49))
    network.send(49.5, flow="late", path=(0,), size_bytes=1000, item="late")
    assert arrivals(network)["late"] <= 52.0


def test_packets_of_one_flow_stay_in_order_and_none_is_lost():
    network = Queueing([(1000.0, 0.1), (300.0, 0.0), (math.inf, 0.2)])
    for i in range(50):
        network.send(0.01 * i, flow=i % 3, path=(0, 1, 2), size_bytes=1 + 37 * i % 113, item=i)
    order = list(arrivals(network))
    assert sorted(order) == list(range(50))
    for flow in range(3):
        assert [i for i in order if i % 3 == flow] == list(range(flow, 50, 3))
