"""Which links are full and when, by hand."""

from cases import chained
from cases import layer as sharded
from hand_explained import SLOW, found, work

from mpsim import Plan, parse_topology


def full(explanation):
    return {(one.source, one.target): one for one in explanation.links}


def test_a_message_fills_its_link_and_no_other():
    """
    d0  [F0][F1]=      =[B0  ]  =[B1  ]
    d1     =[F0][B0  ][F1][B1  ]=
    """
    links = full(found(work((1.0, 2.0), (1.0, 2.0)), parse_topology(SLOW), Plan(pp=2, microbatches=2)))
    forward, back = links["d0", "d1"], links["d1", "d0"]
    assert forward.when == ((1.0, 1.5), (2.0, 2.5))
    assert back.when == ((4.5, 5.0), (7.5, 8.0))
    assert (forward.full_s, forward.shared_s, forward.users) == (1.0, 0.0, (("pp send", 1.0),))
    assert forward.kind == "1 kB/s links"


def test_only_the_narrowest_link_of_a_path_is_full():
    three = parse_topology("nodes:2,per_node=1,inside=4kB/s@0,between=1kB/s@0")
    links = found(work((1.0, 2.0), (1.0, 2.0)), three, Plan(pp=2)).links
    assert {one.kind for one in links} == {"1 kB/s links"}
    assert [one.when for one in links] == [((1.0, 1.5),), ((4.5, 5.0),)]


def test_reductions_that_do_not_meet_share_no_link():
    """Two replicas on two nodes of one card each reduce their second stage from 3 s on, the first one from 5."""
    two = parse_topology("nodes:2,per_node=2,inside=inf@0,between=1kB/s@0,nics=1")
    layers = work((1.0, 2.0), (1.0, 1.0), parameter_bytes=1000)
    (one, *_) = found(layers, two, Plan(dp=2, pp=2)).links
    assert one.when == ((3.0, 4.0), (5.0, 6.0))
    assert (one.kind, one.shared_s, one.users) == ("1 kB/s links", 0.0, (("dp all_reduce", 2.0),))


def test_both_ranks_of_a_node_on_one_card_share_it():
    """A pair of replicas for each of two shards, all between two nodes with one card each: 2 × 1000 B at once, 2 s."""
    two = parse_topology("nodes:2,per_node=2,inside=1000kB/s@0,between=1kB/s@0,nics=1")
    layers = chained([sharded("a", parameters={"w": 1000}, tensor_parallel=[1, 2])], 8)
    one = found(layers, two, Plan(dp=2, tp=2))
    card = one.links[0]
    assert (card.when, card.full_s, card.shared_s) == (((3.0, 5.0),), 2.0, 2.0)
    assert one.path[-1].shared_s == 1.0
    (folded,) = {(link.when, link.shared_s) for link in found(layers, two, Plan(dp=2, tp=2), fold=True).links}
    assert folded == (((3.0, 5.0),), 2.0)
