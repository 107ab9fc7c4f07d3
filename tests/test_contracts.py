"""Every registered schedule, builder and collective keeps its contract, and what breaks one is told so."""

import random
from dataclasses import replace

import pytest

from mpsim.collectives.algorithms import ALGORITHMS, Round, Rounds
from mpsim.errors import MpsimError
from mpsim.plan.schedules import SCHEDULES, Operation, gpipe, parse_rows
from mpsim.testing import check_collective, check_schedule, check_topology
from mpsim.topology.builders import BUILDERS, ring
from mpsim.topology.model import Device, Link, Topology
from mpsim.topology.wire import Wire

WIRE = Wire(2.0**30, 2.0**-20)
ARGUMENTS = {
    "chain": ((5,), {"link": WIRE}),
    "dragonfly": ((3,), {"routers": 2, "per_router": 2, "link": WIRE}),
    "fat_tree": ((4,), {"link": WIRE}),
    "fully_connected": ((5,), {"link": WIRE}),
    "leaf_spine": ((3,), {"per_leaf": 2, "spines": 2, "link": WIRE}),
    "mesh": ((2, 3), {"link": WIRE}),
    "nodes": ((2,), {"per_node": 4, "inside": WIRE, "between": WIRE}),
    "product": ((2, 3), {"kinds": ("ring", "switch"), "links": (WIRE, WIRE)}),
    "ring": ((6,), {"link": WIRE}),
    "switch": ((6,), {"link": WIRE}),
    "torus": ((3, 3), {"link": WIRE}),
}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules(name):
    check_schedule(SCHEDULES[name])


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_builders(name):
    arguments, keywords = ARGUMENTS[name]
    check_topology(BUILDERS[name], *arguments, **keywords)


@pytest.mark.parametrize(("kind", "name"), sorted(ALGORITHMS))
def test_collectives(kind, name):
    check_collective(kind, ALGORITHMS[kind, name])


# What breaks a contract.


def shuffled(stages, microbatches):
    rows = gpipe(stages, microbatches)
    rows[0][:microbatches] = random.sample(rows[0][:microbatches], microbatches)
    return rows


def crossed(stages, microbatches):
    """Stage 0 wants micro-batch 0 back before it sends 1; the others take 1 first."""
    row = [Operation(0, kind, k) for k in range(microbatches) for kind in "FB"]
    others = [[Operation(s, kind, k) for k in reversed(range(microbatches)) for kind in "FB"] for s in range(1, stages)]
    return [row, *others]


def refuses(ranks, microbatches):
    raise MpsimError("never")


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            lambda stages, microbatches: gpipe(stages, microbatches)[:-1],
            "schedule has 0 rows, the plan has 1 pipeline ranks",
        ),
        (lambda stages, microbatches: [row[:-1] for row in gpipe(stages, microbatches)], "is missing"),
        (lambda stages, microbatches: [gpipe(1, microbatches)[0]] * stages, "2 ranks, 1 micro-batches: schedule: 0F0"),
        (lambda stages, microbatches, chunks=1: gpipe(stages, microbatches), "gave another number of them"),
        (refuses, "the schedule refuses all numbers of ranks and micro-batches tried"),
        (lambda *_: "0F0 0B0", "schedule returned a str"),
        (lambda *_: parse_rows("0F0 0B0"), "1 ranks, 4 micro-batches: schedule: 0F1 is missing"),
        (crossed, "2 ranks, 2 micro-batches: schedule cannot finish"),
    ],
)
def test_a_broken_schedule_is_told_where(schedule, message):
    with pytest.raises(MpsimError, match=r"^(\d+ ranks, \d+ micro-batches|the schedule refuses)") as error:
        check_schedule(schedule)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_schedule_that_rolls_dice_is_refused():
    random.seed(0)
    with pytest.raises(MpsimError, match="asked twice, the schedule gave two orders"):
        check_schedule(shuffled, grid=[(2, 16)])


def test_a_builder_that_counts_its_calls_is_refused():
    made = iter(range(9))
    with pytest.raises(MpsimError, match="topology 'ring:4': asked twice, the builder made two topologies"):
        check_topology(lambda: ring(4, link=Wire(1.0 + next(made))))


def test_a_builder_that_makes_something_else_is_refused():
    with pytest.raises(MpsimError, match="the builder returned a NoneType"):
        check_topology(lambda: None)


def test_a_topology_without_a_name_is_refused():
    with pytest.raises(MpsimError, match="its name is '', expected one line"):
        check_topology(lambda: replace(ring(4, link=WIRE), name=""))


def test_one_way_rings_are_topologies_too():
    def one_way(n):
        devices = tuple(Device(name=f"d{i}") for i in range(n))
        links = tuple(
            Link(source=f"d{i}", target=f"d{(i + 1) % n}", bandwidth_bytes_per_s=1.0, latency_s=0.5) for i in range(n)
        )
        return Topology(name=f"one-way ring of {n}", devices=devices, links=links)

    check_topology(one_way, 5)


def once(*messages, pieces=1, reduced=1):
    return lambda n: Rounds(n, (Round(messages, pieces, reduced=reduced),))


@pytest.mark.parametrize(
    ("kind", "algorithm", "message"),
    [
        ("all_reduce", once((0, 1)), "rank 0 never hears, not even through others, from rank 1"),
        ("all_reduce", once((0, 1), (1, 0), reduced=0), "nothing is reduced"),
        ("all_gather", once((0, 1), (1, 0)), "1 pieces are reduced, which this kind never does"),
        ("all_reduce", once((0, 1), (1, 0)), "the busiest rank moves 0.5 of the tensor, any algorithm needs 1"),
        ("all_reduce", once((0, 0)), "a message from rank 0 to rank 0"),
        ("all_reduce", once((0, 2)), "a message from rank 0 to rank 2: ranks are 0 to 1"),
        ("all_reduce", once((0, 1), pieces=0), "each must be 1 or more"),
        ("all_reduce", lambda n: Rounds(n, ()), "2 pieces and 0 rounds"),
        ("broadcast", once((1, 0), reduced=0), "rank 1 never hears, not even through others, from rank 0"),
    ],
)
def test_a_broken_collective_is_told_how(kind, algorithm, message):
    with pytest.raises(MpsimError, match=f"{kind} over 2 ranks: ") as error:
        check_collective(kind, algorithm, sizes=[2])
    assert message in str(error.value)


def test_a_collective_that_refuses_everything():
    def refuse(n):
        raise MpsimError("no")

    with pytest.raises(MpsimError, match="the algorithm refuses every number of ranks tried"):
        check_collective("all_reduce", refuse)


def test_an_unknown_kind_of_collective_gets_the_nearest():
    with pytest.raises(MpsimError, match="did you mean 'all_reduce'"):
        check_collective("all_reduc", once((0, 1), (1, 0), pieces=2, reduced=0))
