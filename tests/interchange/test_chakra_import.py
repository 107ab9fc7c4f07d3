"""Chakra traces of other tools: hand-worked times, and what bad ones get."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.interchange import from_chakra, load_chakra
from mpsim.interchange.chakra_file import Node, RankTrace, load_rank, save_rank
from mpsim.interchange.chakra_schema import messages
from mpsim.topology.spec import parse_topology

DATA = Path(__file__).parent.parent / "data" / "chakra"
RING = parse_topology("ring:4,link=100GB/s@0us")
SLOW = parse_topology("ring:4,link=1024B/s@250ms")


def comp(id, seconds, after=(), **attributes):
    return Node(
        id=id, name=f"c{id}", type="COMP_NODE", data_deps=tuple(after), duration_us=int(seconds * 1e6),
        attributes=attributes,
    )  # fmt: skip


def send(id, to, size=1024, after=(), tag=0):
    attributes = {"comm_dst": to, "comm_size": size, "comm_tag": tag}
    return Node(id=id, name=f"s{id}", type="COMM_SEND_NODE", data_deps=tuple(after), attributes=attributes)


def receive(id, source, size=1024, after=(), tag=0):
    attributes = {"comm_src": source, "comm_size": size, "comm_tag": tag}
    return Node(id=id, name=f"r{id}", type="COMM_RECV_NODE", data_deps=tuple(after), attributes=attributes)


def reduce(id, size=1024, after=(), kind=0, **attributes):
    attributes = {"comm_type": kind, "comm_size": size} | attributes
    return Node(id=id, name=f"a{id}", type="COMM_COLL_NODE", data_deps=tuple(after), attributes=attributes)


def ranks(*nodes):
    return [RankTrace(rank=rank, nodes=tuple(mine), source=f"x.{rank}.et") for rank, mine in enumerate(nodes)]


def ends(traces, **options):
    program, _ = from_chakra(traces, SLOW, **options)
    return {
        (program.streams[task.streams[0]].device, task.name): end
        for task, end in zip(program.tasks, replay(program, SLOW).end_s, strict=True)
    }


def test_a_training_step_that_chakras_converter_wrote():
    """Forward 10+11+12 us; weight gradients 32, 31, 30 and input gradients 22, 21 behind; rings of 3, 2 and 1 MB.

    1.5 S / 100 GB/s: 45, 30 and 15 us. The gradients are ready at 65, 118 and 169 us.
    """
    program, losses = load_chakra([DATA / "dp3"], RING)
    timing = replay(program, RING)
    reduced = [
        (round(start * 1e6, 6), round(end * 1e6, 6))
        for task, start, end in zip(program.tasks, timing.start_s, timing.end_s, strict=True)
        if task.kind == "all_reduce"
    ]
    assert reduced == [(65, 110), (118, 148), (169, 184)]
    assert len(program.tasks) == 4 * 8 + 3
    assert losses.lines == ()


def test_one_transfer_in_flight_or_any_number_of_them():
    """At 20 GB/s the rings take 225, 150 and 75 us alone: one after another from 65 us on, or sharing links."""
    slow = parse_topology("ring:4,link=20GB/s@0us")
    in_turn = replay(load_chakra([DATA / "dp3"], slow)[0], slow).step_s
    shared = replay(load_chakra([DATA / "dp3"], slow, in_flight=0)[0], slow).step_s
    assert in_turn == pytest.approx(65e-6 + 450e-6)
    assert shared == pytest.approx(65e-6 + 450e-6)  # the links are never idle in between
    first = load_chakra([DATA / "dp3"], slow, in_flight=0)[0]
    timing = replay(first, slow)
    (last,) = [i for i, task in enumerate(first.tasks) if "layer1_ALL" in task.name]
    # From 169 us on three share: it has 75 us of a third, and none has ended before.
    assert timing.end_s[last] == pytest.approx(169e-6 + 3 * 75e-6)


def test_what_chakras_generator_writes_is_read():
    two = parse_topology("ring:2,link=1GB/s@1us")
    program, losses = load_chakra([DATA / "one_comp_node"], two)
    assert replay(program, two).end_s == (5e-6, 5e-6)
    program, losses = load_chakra([DATA / "ALL_GATHER"], two)
    assert program.tasks[0].traffic.payload_bytes == 2 * 65536
    assert replay(program, two).step_s == pytest.approx(1e-6 + 65536e-9)
    program, losses = load_chakra([DATA / "BARRIER"], two)
    assert replay(program, two).step_s == 0
    assert "collectives of no bytes" in losses.lines[0]


def test_a_message_leaves_before_its_receiver_is_ready_and_arrives_250_ms_and_a_second_later():
    found = ends(ranks([comp(0, 1), send(1, 1, after=[0])], [comp(0, 4), receive(1, 0), comp(2, 1, after=[1])], [], []))
    assert found == {(0, "c0"): 1.0, (1, "c0"): 4.0, (0, "s1"): 2.25, (1, "c2"): 5.0}


def test_who_waits_for_a_receive_waits_for_what_the_receive_waits_for():
    nodes = [comp(0, 4), receive(1, 0, after=[0]), comp(2, 1, after=[1], is_cpu_op=True)]
    assert ends(ranks([send(1, 1)], nodes, [], []))[1, "c2"] == 5.0


def test_messages_of_one_tag_are_matched_in_turn():
    nodes = [receive(5, 0, 2048), receive(6, 0, 1024, after=[5])]
    found = ends(ranks([send(1, 1, 2048), send(2, 1, 1024, after=[1])], nodes, [], []))
    assert found == {(0, "s1"): 2.25, (0, "s2"): 3.5}


def test_host_and_device_compute_side_by_side():
    assert ends(ranks([comp(0, 1), comp(1, 1, is_cpu_op=True), comp(2, 1)])) == {
        (0, "c0"): 1.0, (0, "c1"): 1.0, (0, "c2"): 2.0,
    }  # fmt: skip


def test_groups_are_read_from_the_metadata_of_pytorch():
    init = Node(
        id=0, name="## process_group:init ##", type="METADATA_NODE",
        values='[\'[{"pg_name": "7", "ranks": [1, 3]}, {"pg_name": "8", "ranks": []}]\']',
    )  # fmt: skip
    mine = [init, reduce(1, pg_name="7")]
    other = [init, comp(1, 1)]
    program, losses = from_chakra(ranks(other, mine, other, mine), SLOW)
    streams = program.tasks[-1].streams
    assert [task.kind for task in program.tasks] == ["compute", "all_reduce", "compute"]
    (made,) = [task for task in program.tasks if task.kind == "all_reduce"]
    assert [program.streams[stream].device for stream in made.streams] == [1, 3]
    assert len(streams) == 1
    assert losses.lines == ()


def test_metadata_and_memory_take_no_time_and_pass_their_dependencies_on():
    nodes = [
        comp(0, 1),
        Node(id=1, name="load", type="MEM_LOAD_NODE", data_deps=(0,)),
        Node(id=2, name="meta", type="METADATA_NODE", data_deps=(1,)),
        comp(3, 1, after=[2], is_cpu_op=True),
    ]
    program, losses = from_chakra(ranks(nodes), SLOW)
    assert replay(program, SLOW).end_s == (1.0, 2.0)
    assert losses.lines == ("reads of remote memory: they take no time: 1, the first node 1 ('load') of rank 0",)


def test_one_file_for_all_ranks(tmp_path):
    save_rank(tmp_path / "x.0.et", RankTrace(rank=0, nodes=(reduce(0, 4096),)))
    program, _ = load_chakra([tmp_path / "x.0.et"], SLOW, copies=4)
    assert replay(program, SLOW).step_s == 6 * 0.25 + 6.0
    alone, losses = load_chakra([tmp_path / "x.0.et"], SLOW)
    assert replay(alone, SLOW).step_s == 0
    assert losses.lines == ("collectives over 1 rank: they take no time: 1, the first node 0 ('a0') of rank 0",)


def test_what_is_left_aside_is_listed():
    nodes = [comp(0, 1), Node(id=1, name="b", type="COMP_NODE", ctrl_deps=(0,), duration_us=1)]
    program, losses = from_chakra(ranks(nodes), SLOW)
    assert losses.lines == (
        "control dependencies: they do not bind, as in chakra's own feeder: 1, the first node 1 ('b') of rank 0",
    )
    assert program.tasks[1].after == ()
    bound, losses = from_chakra(ranks(nodes), SLOW, control=True)
    assert bound.tasks[1].after == (0,)
    assert losses.lines == ()


def test_groups_are_read_from_a_file_of_astra_sims(tmp_path):
    for rank in range(4):
        save_rank(tmp_path / f"x.{rank}.et", RankTrace(rank=rank, nodes=(reduce(0, pg_name=str(rank % 2 + 1)),)))
    (tmp_path / "groups.json").write_text('{"1": [0, 2], "2": [1, 3]}')
    program, losses = load_chakra([tmp_path / "x"], SLOW, groups=tmp_path / "groups.json")
    assert [[program.streams[one].device for one in task.streams] for task in program.tasks] == [[0, 2], [1, 3]]
    assert losses.lines == ()
    with pytest.raises(MpsimError, match="is of group '1', its file tells the ranks of none: give them"):
        load_chakra([tmp_path / "x"], SLOW)
    for text in ("{", "[]", "[" * 100_000, '{"1": []}', '{"1": ["a"]}'):
        (tmp_path / "groups.json").write_text(text)
        with pytest.raises(MpsimError, match=r"groups\.json is no"):
            load_chakra([tmp_path / "x"], SLOW, groups=tmp_path / "groups.json")


GROUP = Node(
    id=9, name="## process_group:init ##", type="METADATA_NODE", values='[{"pg_name": "1", "ranks": [0, 1, 6]}]'
)


@pytest.mark.parametrize(
    ("traces", "message"),
    [
        (ranks([send(1, 1)], []), r"node 1 \('s1'\) of rank 0 has no receive: rank 0 sends 1 .* receives 0"),
        (ranks([], [receive(3, 0)]), r"node 3 \('r3'\) of rank 1 has no send"),
        (ranks([send(1, 1, tag=4)], [receive(3, 0, tag=5)]), r"tag 4"),
        (ranks([send(1, 1, 8)], [receive(3, 0, 9)]), r"node 1 .* sends 8 bytes and node 3 .* receives 9"),
        (ranks([send(1, 0)]), r"node 1 \('s1'\) of rank 0 is a message from rank 0 to itself"),
        (ranks([comp(0, 1, [1]), comp(1, 1, [0])]), r"x.0.et: a cycle .* node 0 \('c0'\) <- 1 \('c1'\) <- 0 \('c0'\)"),
        (ranks([comp(0, 1, [0])]), r"node 0 \('c0'\) <- 0"),
        (
            ranks([receive(0, 1), send(1, 1, after=[0])], [receive(0, 0), send(1, 0, after=[0])]),
            r"a cycle of dependencies between ranks: 's1' of rank \d <- 's1' of rank \d",
        ),
        (ranks([comp(0, 1, [7])]), r"x.0.et: node 0 \('c0'\) of rank 0 depends on node 7, which is not in the file"),
        (ranks([comp(0, 1), comp(0, 1)]), r"x.0.et: nodes 'c0' and 'c0' both have id 0"),
        (ranks([reduce(0)], []), r"node 0 \('a0'\) of rank 0 is a collective of group '', rank 1 of it makes no such"),
        (ranks([reduce(0)], [reduce(5, 8)]), r"node 0 .* has comm_size 1024, node 5 \('a5'\) of rank 1 .* 8"),
        (ranks([reduce(0)], [reduce(5, kind=2)]), r"node 0 .* has comm_type 0, node 5"),
        (ranks([reduce(0, kind=12)], [reduce(0, kind=12)]), r"node 0 .* type 12, the schema has 0 to 9"),
        (ranks([reduce(0, pg_name="3")]), r"node 0 .* is of group '3', its file tells the ranks of none"),
        (ranks([GROUP, reduce(0, pg_name="1")]), r"node 0 .* group '1' with rank 6, there are files for 1 ranks"),
        (ranks([reduce(0, involved_dim=(True, False))]), r"node 0 .* over some dimensions"),
        (ranks([send(1, 1, -8)], [receive(3, 0, -8)]), r"node 1 \('s1'\) of rank 0 is of -8 bytes"),
        (ranks([reduce(0, -8)], [reduce(0, -8)]), r"node 0 \('a0'\) of rank 0 is of -8 bytes"),
        (ranks([], []), r"no rank of the 2 has a node"),
        (ranks([], [], [], [], []), r"the trace has 5 ranks, topology .* has 4 devices"),
    ],
)
def test_a_trace_that_cannot_be_is_one_line_with_its_node(traces, message):
    with pytest.raises(MpsimError, match=message) as error:
        from_chakra(traces, SLOW)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", [1, 3, 17, 100])
def test_a_file_that_was_cut_is_refused(tmp_path, missing):
    whole = (DATA / "dp3.0.et").read_bytes()
    (tmp_path / "cut.0.et").write_bytes(whole[:-missing])
    with pytest.raises(MpsimError, match=r"cut\.0\.et was cut"):
        load_chakra([tmp_path / "cut"], RING)


def test_every_way_to_cut_a_file_is_refused_or_leaves_whole_nodes(tmp_path):
    whole = (DATA / "dp3.0.et").read_bytes()
    path = tmp_path / "cut.0.et"
    read, refused = [], []
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        try:
            read.append(len(load_rank(path, 0).nodes))
        except MpsimError as error:
            refused.append(str(error))
    assert read == list(range(11))  # behind the head, and behind each node but the last
    assert all("was cut" in message or "no schema version" in message for message in refused)


@pytest.mark.parametrize("version", ["0.0.1", "2.0.0", "banana"])
def test_an_unknown_version_is_refused(tmp_path, version):
    path = tmp_path / "x.0.et"
    save_rank(path, RankTrace(rank=0, nodes=()))
    path.write_bytes(bytes([2 + len(version), 10, len(version)]) + version.encode())
    with pytest.raises(
        MpsimError, match=rf"x\.0\.et is of schema version '{version}', mpsim reads 0\.0\.4 and 1\.0\.0"
    ):
        load_rank(path, 0)


def test_files_that_are_no_traces_are_refused(tmp_path):
    (tmp_path / "a.0.et").write_bytes(b"")
    with pytest.raises(MpsimError, match="has no schema version"):
        load_rank(tmp_path / "a.0.et", 0)
    (tmp_path / "b.0.et").write_text('{"schema": "mpsim.result/1"}')
    with pytest.raises(MpsimError, match="was cut, or is no Chakra trace"):
        load_rank(tmp_path / "b.0.et", 0)


def test_a_node_of_no_known_type_and_one_of_negative_time_are_refused_by_name(tmp_path):
    for change, message in (({"type": 42}, "is of type 42"), ({"duration_micros": 2**64 - 5}, "lasts -5 us")):
        node = messages().node(id=7, name="odd", **{"type": 4, **change}).SerializeToString()
        head = messages().metadata(version="0.0.4").SerializeToString()
        (tmp_path / "x.0.et").write_bytes(bytes([len(head)]) + head + bytes([len(node)]) + node)
        with pytest.raises(MpsimError, match=rf"x\.0\.et: node 7 \('odd'\) {message}"):
            load_rank(tmp_path / "x.0.et", 0)


def test_a_compressed_file_that_was_cut_or_edited_is_one_line(tmp_path):
    save_rank(tmp_path / "x.0.et", ranks([comp(0, 1.0)])[0])
    whole = gzip.compress((tmp_path / "x.0.et").read_bytes())
    for bad in (whole[:-8], whole[:14] + b"x" * 40, b"\x1f\x8bno gzip at all"):
        (tmp_path / "x.0.et").write_bytes(bad)
        with pytest.raises(MpsimError, match=r"cannot read .*x\.0\.et.*: its gzip was cut or edited"):
            load_rank(tmp_path / "x.0.et", 0)


def test_copies_are_one_or_more(tmp_path):
    save_rank(tmp_path / "x.0.et", ranks([comp(0, 1.0)])[0])
    with pytest.raises(MpsimError, match="0 copies asked for, expected 1 or more"):
        load_chakra([tmp_path / "x"], RING, copies=0)


def test_ranks_must_be_whole(tmp_path):
    for rank in (0, 2):
        save_rank(tmp_path / f"x.{rank}.et", RankTrace(rank=rank, nodes=()))
    with pytest.raises(MpsimError, match="rank 1 is missing among 2 files up to rank 2"):
        load_chakra([tmp_path / "x"], RING)
    with pytest.raises(MpsimError, match="no rank in its name"):
        load_chakra([DATA / "README.md"], RING)


def test_compressed_files_are_read(tmp_path):
    (tmp_path / "x.0.et").write_bytes(gzip.compress((DATA / "dp3.0.et").read_bytes()))
    assert load_rank(tmp_path / "x.0.et", 0).nodes == load_rank(DATA / "dp3.0.et", 0).nodes


@given(st.integers(0, 3), st.lists(st.tuples(st.integers(0, 703), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_file_with_wrong_bytes_is_read_or_refused_in_one_line(tmp_path_factory, rank, changes):
    folder = tmp_path_factory.mktemp("wrong")
    for other in range(4):
        data = bytearray((DATA / f"dp3.{other}.et").read_bytes())
        for at, byte in changes if other == rank else ():
            data[at] = byte
        (folder / f"x.{other}.et").write_bytes(data)
    try:
        program, _ = load_chakra([folder / "x"], RING)
    except MpsimError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert len(replay(program, RING).end_s) == len(program.tasks)
