"""Which layer holds what: every parameter somewhere, tied ones in each layer that makes their gradient."""

from hypothesis import given
from hypothesis import strategies as st

from mpsim.workload.holdings import held_by, owners

PATHS = ["embed", "block.a", "block.b", "head"]


def held(names, readers, makers):
    full = lambda given: [given.get(i, []) for i in range(4)]  # noqa: E731
    return held_by(names, full(readers), full(makers), PATHS)


def test_what_makes_the_gradient_holds_it():
    assert held(["block.a.w"], {1: ["block.a.w"], 3: ["block.a.w"]}, {1: ["block.a.w"]}) == [[], ["block.a.w"], [], []]


def test_tied_is_held_by_each_and_owned_by_the_first():
    found = held(["embed.w"], {0: ["embed.w"], 3: ["embed.w"]}, {0: ["embed.w"], 3: ["embed.w"]})
    assert found == [["embed.w"], [], [], ["embed.w"]]
    assert owners(found) == [["embed.w"], [], [], []]


def test_frozen_is_held_by_its_own_module_that_reads_it():
    """Another layer that reads it, such as one that follows it, does not hold it."""
    assert held(["block.b.w"], {0: ["block.b.w"], 2: ["block.b.w"]}, {}) == [[], [], ["block.b.w"], []]


def test_frozen_of_no_layers_own_module_is_held_by_all_that_read_it():
    assert held(["scale"], {0: ["scale"], 3: ["scale"]}, {}) == [["scale"], [], [], ["scale"]]


def test_unread_is_held_by_the_nearest_and_first():
    assert held(["block.c.w", "spare.w"], {}, {}) == [["spare.w"], ["block.c.w"], [], []]


names = st.lists(st.sampled_from(["embed.w", "block.a.w", "block.b.w", "block.c.w", "head.w", "scale"]), unique=True)


@given(names, st.tuples(names, names, names, names), st.tuples(names, names, names, names))
def test_all_are_held_and_owned_once(every, readers, makers):
    found = held_by(every, readers, makers, PATHS)
    assert {name for one in found for name in one} == set(every)
    owned = [name for one in owners(found) for name in one]
    assert sorted(owned) == sorted(every)
