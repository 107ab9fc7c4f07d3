"""The grid of a sweep: every plan once, none that is the same as another."""

import math
from collections import Counter
from math import prod

from hypothesis import given
from hypothesis import strategies as st

from mpsim.sweeps.grid import MOST_MICROBATCHES, candidates, microbatch_counts
from mpsim.workload.model import Cost, Layer, Samples, Shard, Workload


def measured_at(sizes: dict[int, tuple[int, ...]]) -> Workload:
    """Make a workload of two layers that was measured at these micro-batches of each tensor-parallel size."""
    samples = Samples(forward_s=(1.0,), backward_input_s=(1.0,), backward_weight_s=(1.0,))
    costs = tuple(
        Cost(microbatch=size, tensor_parallel=tp, samples=samples) for tp, some in sizes.items() for size in some
    )
    shards = tuple(Shard(tensor_parallel=tp) for tp in sizes)
    layers = tuple(Layer(name=name, shards=shards, costs=costs) for name in "ab")
    return Workload(name="grid", layers=layers, microbatch=min(sizes[1]))


def cells(found: list) -> list[tuple]:
    return [(c.dp, c.pp, c.tp, c.microbatches, c.schedule) for c in found]


def test_two_devices_by_hand() -> None:
    # A batch of 4 in micro-batches of 1 or 2: 4 or 2 parts on one replica, 2 or 1 on each of two.
    assert cells(candidates(measured_at({1: (1, 2)}), 2, 4)) == [
        (1, 1, 1, 2, None),
        (1, 1, 1, 4, None),
        (1, 1, 2, 1, None),  # never traced: one row, with the reason
        (1, 2, 1, 2, "naive"),
        (1, 2, 1, 2, "gpipe"),
        (1, 2, 1, 2, "1f1b"),
        (1, 2, 1, 4, "gpipe"),
        (1, 2, 1, 4, "1f1b"),
        (2, 1, 1, 1, None),
        (2, 1, 1, 2, None),
    ]


def test_one_micro_batch_has_one_schedule() -> None:
    found = candidates(measured_at({1: (4,)}), 2, 4, tensor=[1], schedules=["gpipe", "1f1b"])
    assert cells(found) == [(1, 1, 1, 1, None), (1, 2, 1, 1, "naive"), (2, 1, 1, 1, None)]


def test_what_is_asked_for_restricts_the_grid() -> None:
    found = candidates(measured_at({1: (1, 2)}), 4, 8, microbatches=[4, 4], schedules=["naive", "1f1b"], tensor=[2])
    assert cells(found) == [
        (1, 1, 2, 4, None),
        (1, 2, 2, 4, "naive"),
        (1, 2, 2, 4, "1f1b"),
        (2, 1, 2, 4, None),
    ]


def test_a_batch_that_no_replica_can_cut_keeps_its_row() -> None:
    work = measured_at({1: (8, 16)})
    assert microbatch_counts(work, 7, 3, 1) == [1]  # 7 does not divide into 3
    assert microbatch_counts(work, 4, 1, 1) == [1]  # 4 is nearer to 8 than 2 or 1 are
    assert microbatch_counts(work, 64, 1, 1) == [4, 8]
    assert microbatch_counts(work, 8, 1, 2) == [1]  # that shard was never measured


def test_many_divisors_are_thinned_and_measured_ones_kept() -> None:
    # 5040 has 60 divisors; 1, 7 and 5040 itself were measured.
    counts = microbatch_counts(measured_at({1: (1, 7, 5040)}), 5040, 1, 1)
    assert len(counts) == MOST_MICROBATCHES
    assert {1, 720, 5040} <= set(counts)
    assert counts == sorted(counts)


@given(
    n=st.integers(1, 24),
    batch=st.integers(1, 96),
    sizes=st.sets(st.integers(1, 32), min_size=1),
    tp=st.sampled_from([(1,), (1, 2), (1, 2, 4)]),
)
def test_every_shape_appears_and_no_cell_twice(n: int, batch: int, sizes: set[int], tp: tuple[int, ...]) -> None:
    found = candidates(measured_at(dict.fromkeys(tp, tuple(sizes))), n, batch)
    assert max(Counter(cells(found)).values()) == 1
    shapes = {(c.dp, c.pp, c.tp) for c in found}
    every = {(a, b, c) for a in range(1, n + 1) for b in range(1, n + 1) for c in range(1, n + 1) if a * b * c <= n}
    assert shapes == every
    assert [c.ranks for c in found] == sorted(prod((c.dp, c.pp, c.tp)) for c in found)
    for c in found:
        assert (c.schedule is None) == (c.pp == 1)
        assert c.microbatches > 1 or c.schedule in (None, "naive")


def test_a_batch_of_any_size_is_cut_at_once() -> None:
    work = Workload.chain("one", [Layer.given("a", forward_s=1.0, backward_s=2.0, microbatch=4)])
    assert microbatch_counts(work, 4 * 10**20, 1, 1) == [10**20]
    for batch in range(1, 200):  # the nearest where none is inside, as by trying every number
        divisors = [n for n in range(1, batch + 1) if batch % n == 0]
        inside = [n for n in divisors if batch // n == 4]
        nearest = min(divisors, key=lambda n: abs(math.log(batch / n / 4)))
        assert microbatch_counts(work, batch, 1, 1) == (inside or [nearest])
