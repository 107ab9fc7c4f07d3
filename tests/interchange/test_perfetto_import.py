"""Traces for Perfetto read back as the results that they were."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from random_cases import cases

from mpsim.errors import MpsimError
from mpsim.interchange import load_perfetto
from mpsim.plan.model import Plan
from mpsim.result.perfetto import save_perfetto, to_perfetto
from mpsim.simulation import simulate
from mpsim.topology.spec import parse_topology
from mpsim.workload.model import Layer, Workload


def result_of(plan):
    layers = [Layer.given(name, forward_s=0.5, backward_s=1.0, parameter_bytes=4096) for name in "abcd"]
    work = Workload.chain("four", layers, activation_bytes=1024)
    return simulate(work, parse_topology("switch:4,link=1024B/s@250ms"), plan)


def spans_of(result):
    spans = result.spans
    rows = zip(
        spans.name, spans.kind, spans.axis, map(sorted, spans.devices), spans.stage, spans.microbatch, spans.bytes,
        spans.start_s, spans.end_s, strict=True,
    )  # fmt: skip
    return sorted(rows, key=repr)


def test_devices_that_stand_for_others_come_back_so(tmp_path):
    work = Workload.chain("one", [Layer.given("a", forward_s=0.5, backward_s=1.0, parameter_bytes=4096)])
    result = simulate(work, parse_topology("switch:2000,link=1024B/s@250ms"), Plan(dp=2000))
    save_perfetto(tmp_path / "t.json", result)
    read, _ = load_perfetto(tmp_path / "t.json")
    assert [(use.label, use.count) for use in read.devices] == [("d0 × 2,000", 2000)]
    assert spans_of(read) == spans_of(result)


@pytest.mark.parametrize("plan", [Plan(pp=4, microbatches=4), Plan(pp=2, dp=2, microbatches=2), Plan(dp=4)])
def test_a_trace_read_back_is_the_result_that_it_was(tmp_path, plan):
    result = result_of(plan)
    save_perfetto(tmp_path / "t.json", result)
    read, losses = load_perfetto(tmp_path / "t.json")
    assert spans_of(read) == spans_of(result)
    for name in ("workload", "topology", "plan", "runtime", "made_by", "step_s", "fidelity"):
        assert getattr(read, name) == getattr(result, name)
    for before, after in zip(result.devices, read.devices, strict=True):
        assert after.name == before.name
        assert after.memory.timeline_bytes == before.memory.timeline_bytes
        held = [[(one.holder, one.bytes) for one in use.memory.by_holder] for use in (before, after)]
        assert held[0] == held[1]
        for part in ("compute_s", "exposed_communication_s", "idle_s"):
            assert math.isclose(getattr(after, part), getattr(before, part), abs_tol=1e-9)
    assert len(losses) == 3


def sends_of(result):
    spans = result.spans
    rows = zip(spans.kind, spans.name, spans.devices, spans.start_s, strict=True)
    return sorted(row[1:] for row in rows if row[0] == "send")


@pytest.mark.parametrize("plan", [Plan(pp=4, microbatches=4), Plan(pp=2, dp=2, microbatches=2)])
def test_who_sends_and_who_receives_comes_back(tmp_path, plan):
    result = result_of(plan)
    assert any(first > second for _, (first, second), _ in sends_of(result))  # backwards
    save_perfetto(tmp_path / "t.json", result)
    read, _ = load_perfetto(tmp_path / "t.json")
    assert sends_of(read) == sends_of(result)


@pytest.mark.parametrize("change", [{"id": None}, {"ts": "x"}, {"ts": 10**400}, {"pid": [1]}, {"name": 3}, {"ph": "f"}])
def test_arrows_that_lead_nowhere_are_passed_over(tmp_path, change):
    result = result_of(Plan(pp=2, dp=2, microbatches=2))
    trace = to_perfetto(result)
    for event in trace["traceEvents"]:
        if event["ph"] == "s":
            event.update(change)
    (tmp_path / "t.json").write_text(json.dumps(trace))
    read, losses = load_perfetto(tmp_path / "t.json")
    assert spans_of(read) == spans_of(result)
    assert len(losses) == 3


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_the_first_device_of_a_send_has_its_stage(case):
    spans = simulate(case.workload, case.topology, case.plan).spans
    rows = [*zip(spans.kind, spans.stage, spans.devices, strict=True)]
    has = {(devices[0], stage) for kind, stage, devices in rows if kind.startswith(("forward", "backward"))}
    assert all((devices[0], stage) in has for kind, stage, devices in rows if kind == "send" and len(devices) == 2)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_any_result_comes_back_to_the_nanosecond(tmp_path_factory, case):
    result = simulate(case.workload, case.topology, case.plan)
    path = tmp_path_factory.mktemp("perfetto") / "t.json"
    save_perfetto(path, result)
    read, _ = load_perfetto(path)
    assert len(read.spans) == len(result.spans)
    assert sorted(read.spans.name) == sorted(result.spans.name)
    assert sum(map(len, read.spans.devices)) == sum(map(len, result.spans.devices))
    for before, after in zip(result.devices, read.devices, strict=True):
        assert math.isclose(after.compute_s, before.compute_s, abs_tol=1e-9 * (1 + 2 * len(result.spans)))


def test_a_transfer_that_lacks_a_device_is_refused(tmp_path):
    trace = to_perfetto(result_of(Plan(dp=4)))
    event = next(one for one in trace["traceEvents"] if one.get("cat") == "all_reduce")
    trace["traceEvents"].remove(event)
    (tmp_path / "t.json").write_text(json.dumps(trace))
    with pytest.raises(MpsimError, match=rf"transfer '{event['name']}' at .* stands under 3 devices, it is of 4"):
        load_perfetto(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is no trace: it has no list of traceEvents"),
        ('{"traceEvents": [', "is not whole JSON"),
        ('{"traceEvents": []}', "is no trace of mpsim's"),
        ("[1]", "is no trace of mpsim's"),
    ],
)
def test_a_file_that_is_none_of_ours_is_one_line(tmp_path, text, message):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(MpsimError, match=message):
        load_perfetto(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ts", -5, "starts at -5.0 us, before its step"),
        ("ts", 10**400, "has 1000.* as ts"),
        ("dur", 10**400, "has 1000.* as dur"),
        ("args", {"stage": 10**400}, "has 1000.* as stage"),
        ("args", {"stage": -7}, "has -7 as stage"),
    ],
)
def test_a_span_that_cannot_be_is_one_line(tmp_path, name, value, message):
    trace = to_perfetto(result_of(Plan(dp=4)))
    next(one for one in trace["traceEvents"] if one["ph"] == "X")[name] = value
    (tmp_path / "t.json").write_text(json.dumps(trace))
    with pytest.raises(MpsimError, match=message):
        load_perfetto(tmp_path / "t.json")


def test_what_mpsim_does_not_write_is_listed_and_a_trace_without_devices_refused(tmp_path):
    trace = to_perfetto(result_of(Plan(dp=4)))
    trace["traceEvents"].append({"ph": "B", "name": "begun", "pid": 1, "tid": 1, "ts": 0})
    (tmp_path / "t.json").write_text(json.dumps(trace))
    _, losses = load_perfetto(tmp_path / "t.json")
    assert "events of a phase that mpsim does not write: left out: 1, the first 'begun'" in losses.lines
    (tmp_path / "t.json").write_text(json.dumps(trace | {"traceEvents": []}))
    with pytest.raises(MpsimError, match=r"t\.json names no device"):
        load_perfetto(tmp_path / "t.json")


@pytest.mark.parametrize(("name", "value"), [("ts", None), ("ts", "x"), ("args", {}), ("args", {"bytes": -1})])
def test_memory_that_cannot_be_is_one_line(tmp_path, name, value):
    trace = to_perfetto(result_of(Plan(dp=4)))
    next(one for one in trace["traceEvents"] if one["ph"] == "C")[name] = value
    (tmp_path / "t.json").write_text(json.dumps(trace))
    with pytest.raises(MpsimError, match=r"the memory of 'd0' is .* us"):
        load_perfetto(tmp_path / "t.json")
