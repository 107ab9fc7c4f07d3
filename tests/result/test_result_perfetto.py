import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsim.errors import MpsimError
from mpsim.result.lanes import pack
from mpsim.result.model import Spans
from mpsim.result.perfetto import save_perfetto, to_perfetto


def of(trace, phase):
    return [event for event in trace["traceEvents"] if event["ph"] == phase]


def thread_names(trace):
    return {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in of(trace, "M")
        if event["name"] == "thread_name"
    }


def assert_threads_do_not_overlap(trace):
    threads = defaultdict(list)
    for event in of(trace, "X"):
        start = round(event["ts"] * 1000)
        threads[event["pid"], event["tid"]].append((start, start + round(event["dur"] * 1000)))
    for slices in threads.values():
        slices.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(slices))


def test_the_format(replay):
    result = replay(replicas=2)
    trace = to_perfetto(result)
    assert json.loads(json.dumps(trace, allow_nan=False)) == trace
    assert set(trace) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    for event in trace["traceEvents"]:
        assert event["ph"] in "XMCsf"
        assert isinstance(event["pid"], int)
        assert isinstance(event["name"], str)
    for event in of(trace, "X"):
        assert set(event) == {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"}
        assert event["ts"] >= 0
        assert event["dur"] >= 0
    for event in of(trace, "C"):
        assert all(isinstance(value, int) for value in event["args"].values())


def test_a_process_for_each_device_and_a_thread_for_each_track(replay):
    trace = to_perfetto(replay(replicas=2))
    names = {e["pid"]: e["args"]["name"] for e in of(trace, "M") if e["name"] == "process_name"}
    assert names == {i + 1: f"gpu{i}" for i in range(8)}
    tracks = defaultdict(list)
    for (pid, _), name in thread_names(trace).items():
        tracks[pid].append(name)
    assert tracks[1] == ["compute", "pp transfers", "dp transfers"]
    used = {(event["pid"], event["tid"]) for event in of(trace, "X")}
    assert used == set(thread_names(trace))
    assert len({tid for _, tid in used}) == len(used)


def test_times_are_microseconds_and_arguments_told(pipeline):
    trace = to_perfetto(pipeline)
    (first,) = [e for e in of(trace, "X") if e["name"] == "0F1"]
    assert (first["ts"], first["dur"]) == (976.562, 976.563)  # 2**-10 s, to the nanosecond
    assert first["args"] == {"kind": "forward", "stage": 0, "microbatch": 1}
    sends = [e for e in of(trace, "X") if e["name"] == "send 0F0 to 1"]
    assert [e["pid"] for e in sends] == [1, 2]
    expected = {
        "kind": "send",
        "stage": 0,
        "microbatch": 0,
        "bytes": 4 * 2**20,
        "n_devices": 2,
        "devices": "gpu0, gpu1",
    }
    assert sends[0]["args"] == expected
    (optimizer, *_) = [e for e in of(trace, "X") if e["cat"] == "optimizer"]
    assert "microbatch" not in optimizer["args"]


def test_every_span_stands_under_each_of_its_devices(replay):
    result = replay(replicas=2)
    assert len(of(to_perfetto(result), "X")) == sum(map(len, result.spans.devices))


def test_an_arrow_leads_from_each_send_to_its_receive(replay):
    result = replay(replicas=2)
    trace = to_perfetto(result)
    slices = {(e["pid"], e["tid"], e["name"], e["ts"]): e for e in of(trace, "X")}
    starts, ends = of(trace, "s"), of(trace, "f")
    assert len(starts) == len(ends) == result.spans.kind.count("send") == 2 * 2 * 3 * 8
    assert len({e["id"] for e in starts}) == len(starts)
    for start, end in zip(starts, ends, strict=True):
        assert [start[key] for key in ("id", "name", "cat")] == [end[key] for key in ("id", "name", "cat")]
        sent = slices[start["pid"], start["tid"], start["name"], start["ts"]]
        received = slices[end["pid"], end["tid"], end["name"], start["ts"]]
        assert sent["args"]["devices"] == f"gpu{start['pid'] - 1}, gpu{end['pid'] - 1}"
        assert received["ts"] <= end["ts"] < received["ts"] + received["dur"]
        assert end["bp"] == "e"
    # What shares its time with an arrow must be there before it.
    assert trace["traceEvents"][-2 * len(starts) :] == [e for pair in zip(starts, ends, strict=True) for e in pair]


def test_memory_is_a_counter(pipeline):
    counters = [e for e in of(to_perfetto(pipeline), "C") if e["pid"] == 1 and e["name"] == "memory"]
    assert counters[0] == {"name": "memory", "ph": "C", "ts": 0.0, "pid": 1, "args": {"bytes": 96 * 2**20}}
    assert max(e["args"]["bytes"] for e in counters) == pipeline.peak_memory_bytes[0]


def test_memory_is_a_counter_for_each_holder_too(pipeline):
    counters = [e for e in of(to_perfetto(pipeline), "C") if e["pid"] == 1]
    names = ["memory", *(f"memory: {one.holder}" for one in pipeline.devices[0].memory.by_holder)]
    assert list(dict.fromkeys(e["name"] for e in counters)) == names
    activations = [(e["ts"], e["args"]["bytes"]) for e in counters if e["name"] == "memory: activations"]
    # 2**-10 s a forward: the first is done after a 1024th of a second.
    assert activations[:3] == [(0.0, 0), (976.562, 24 * 2**20), (1953.125, 48 * 2**20)]


def test_overlapping_spans_are_given_further_threads(pipeline):
    spans = Spans(
        name=("a", "b", "c"),
        kind=("send",) * 3,
        axis=("pp",) * 3,
        devices=((0, 1),) * 3,
        stage=(0,) * 3,
        microbatch=(0,) * 3,
        bytes=(1,) * 3,
        start_s=(0.0, 0.5, 1.0),
        end_s=(1.0, 1.5, 2.0),
    )
    trace = to_perfetto(replace(pipeline, spans=spans))
    names = thread_names(trace)
    where = {e["name"]: names[e["pid"], e["tid"]] for e in of(trace, "X") if e["pid"] == 1}
    assert where == {"a": "pp transfers", "b": "pp transfers (2)", "c": "pp transfers"}


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("forward_s", [2**-10, 1e-3 / 3, 1e-7])
def test_no_thread_holds_overlapping_slices(replay, split, forward_s):
    assert_threads_do_not_overlap(to_perfetto(replay(replicas=2, split=split, forward_s=forward_s, send_s=forward_s)))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=40))
def test_lanes_are_disjoint_and_no_more_than_needed(intervals):
    intervals.sort()
    starts, ends = [a for a, _ in intervals], [a + n for a, n in intervals]
    lanes = pack(starts, ends)
    for lane in set(lanes):
        rows = [(a, b) for a, b, on in zip(starts, ends, lanes, strict=True) if on == lane]
        assert all(b <= a for (_, b), (a, _) in pairwise(rows))
    # At no moment are fewer intervals open than lanes were ever needed.
    deepest = max((sum(a <= t < max(b, t + 1) for a, b in zip(starts, ends, strict=True)) for t in starts), default=0)
    assert len(set(lanes)) <= deepest


def test_saved_whole_or_not_at_all(tmp_path, pipeline):
    save_perfetto(tmp_path / "trace.json", pipeline)
    assert json.loads((tmp_path / "trace.json").read_text()) == to_perfetto(pipeline)
    with pytest.raises(MpsimError, match="cannot write"):
        save_perfetto(tmp_path / "nowhere" / "trace.json", pipeline)
    with pytest.raises(MpsimError, match="holds no spans"):
        save_perfetto(tmp_path / "none.json", replace(pipeline, spans=Spans()))
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]
