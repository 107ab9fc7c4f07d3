"""Random workloads, plans and topologies: what must hold of every one of them."""

import math
from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from random_cases import Case, ascending, cases

from mpsim.lowering.draws import Trials
from mpsim.lowering.lower import lower
from mpsim.lowering.model import Lowering
from mpsim.result.model import Result, Spans
from mpsim.simulation import simulate
from mpsim.simulation.cutting import fastest_cut
from mpsim.simulation.preparing import prepare_played
from mpsim.simulation.run import simulate_played
from mpsim.topology.routes import Routes

FEW = settings(max_examples=80)
MANY = settings(max_examples=2000)


class Run(NamedTuple):
    """A case, what it is lowered to, and its replay: made once for all that must hold of it."""

    case: Case
    lowering: Lowering
    result: Result


def run_of(case: Case) -> Run:
    """Do what `simulate` does, which is compared below, and keep what it has lowered."""
    played = prepare_played(*case)
    return Run(case, played.lowering, simulate_played(played, Trials()))


runs = cases().map(run_of)


def slices(run: Run) -> list[list[int]]:
    return [list(stage.layers) for stage in run.lowering.stages]


def tuples(result: Result):
    spans = result.spans
    return zip(spans.axis, spans.kind, spans.devices, spans.bytes, spans.start_s, spans.end_s, strict=True)


# Conservation: what is sent, by formulas that do not look at the lowering.


def cut_bytes(case: Case, stages: list[list[int]]) -> list[tuple[int, int]]:
    """Return what crosses each cut forwards and backwards: each tensor made before it and read behind it, once."""
    position = {layer.name: i for i, layer in enumerate(case.workload.layers)}
    found = []
    for after in stages[1:]:
        crossing = [
            tensor
            for tensor in case.workload.tensors
            if tensor.producer
            and position[tensor.producer] < after[0]
            and any(position[name] >= after[0] for name in tensor.consumers)
        ]
        sizes = [math.prod(tensor.shape) for tensor in crossing]
        returned = [size for tensor, size in zip(crossing, sizes, strict=True) if tensor.needs_gradient]
        found.append((sum(sizes), sum(returned)))
    return found


def held(case: Case, stage: list[int]) -> dict[str, int]:
    layers = [case.workload.layers[i] for i in stage]
    return {g.parameter: g.bytes for layer in layers for g in layer.shard(case.plan.tp).gradients}


def expected_payload(run: Run) -> dict[tuple[str, str], int]:
    case, plan, stages = run.case, run.case.plan, slices(run)
    expected: dict[tuple[str, str], int] = defaultdict(int)
    pairs = plan.dp * plan.tp * plan.microbatches
    expected["pp", "send"] = pairs * sum(map(sum, cut_bytes(case, stages)))
    gradients = [held(case, stage) for stage in stages]
    if plan.dp > 1:
        expected["dp", "all_reduce"] = plan.tp * sum(sum(one.values()) for one in gradients)
    if sum("tied" in one for one in gradients) > 1:
        expected["pp", "all_reduce"] = plan.dp * plan.tp * 512
    if plan.tp > 1:
        for layer in case.workload.layers:
            (cost,) = [cost for cost in layer.costs if cost.tensor_parallel == plan.tp]
            for call in cost.collectives:
                expected["tp", call.kind] += plan.dp * plan.microbatches * call.bytes
    return {key: count for key, count in expected.items() if count}


def check_payload(run: Run) -> None:
    sent = {(count.axis, count.kind): count.payload_bytes for count in run.result.traffic if count.payload_bytes}
    assert sent == expected_payload(run)


def check_link_bytes(run: Run) -> None:
    """A message is on every link of its route, a ring's collective on those from each rank to the next."""
    case, lowering, result = run
    routes = Routes(case.topology)
    order = sorted(lowering.place)
    expected: dict[tuple[str, str], float] = defaultdict(float)
    for axis, kind, where, count, _, _ in tuples(result):
        if not axis or (kind != "send" and case.plan.algorithm != "ring"):
            continue
        ranks = [order[i] for i in where]
        n = len(ranks)
        if kind == "send":
            expected[axis, kind] += count * len(routes.path(*ranks))
        else:
            factor = 2 * (n - 1) / n if kind == "all_reduce" else (n - 1) / n
            hops = sum(len(routes.path(a, b)) for a, b in zip(ranks, [*ranks[1:], ranks[0]], strict=True))
            expected[axis, kind] += count * factor * hops
    for count in result.traffic:
        if (count.axis, count.kind) in expected:
            # Counts are whole bytes.
            assert count.link_bytes == pytest.approx(expected[count.axis, count.kind], rel=1e-12, abs=0.5)


# Time.


def check_accounts(run: Run) -> None:
    """Compute, exposed communication and idle are the step to the bit, and are what the spans say they are."""
    result = run.result
    busy, active = defaultdict(list), defaultdict(list)
    for axis, _, where, _, start_s, end_s in tuples(result):
        for device in where:
            active[device].append((start_s, end_s))
            if not axis:
                busy[device].append((start_s, end_s))
    for i, device in enumerate(result.devices):
        parts = (device.compute_s, device.exposed_communication_s, device.idle_s)
        assert min(parts) >= 0
        assert device.compute_s + device.exposed_communication_s + device.idle_s == result.step_s
        assert device.compute_s == pytest.approx(covered(busy[i]), rel=1e-12, abs=math.ulp(result.step_s))
        assert result.step_s - device.idle_s == pytest.approx(covered(active[i]), rel=1e-12, abs=1e-15)
        assert 0 <= device.bubble_s <= result.free_step_s


def covered(spans: list[tuple[float, float]]) -> float:
    """Return for how long at least one of the spans lasts, an edge at a time."""
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    total, depth, since = 0.0, 0, 0.0
    for at, change in edges:
        total += at - since if depth else 0.0
        depth, since = depth + change, at
    return total


def check_free(run: Run) -> None:
    result = run.result
    assert 0 <= result.free_step_s <= result.step_s
    assert 0 <= result.communication_overhead_fraction <= 1


def check_alone(run: Run) -> None:
    """No two computations of a device overlap, and a computation is one device's."""
    busy = defaultdict(list)
    for axis, kind, where, _, start_s, end_s in tuples(run.result):
        if not axis:
            assert len(where) == 1
            assert kind in ("forward", "backward", "backward_input", "backward_weight", "optimizer")
            busy[where[0]].append((start_s, end_s))
    for spans in busy.values():
        spans.sort()
        assert ascending(tuple(edge for span in spans for edge in span))


def check_compute(run: Run) -> None:
    """A device computes for as long as its layers take, times its micro-batches, and updates them once."""
    case, lowering, result = run
    rank_of = {device: rank for rank, device in enumerate(lowering.place)}
    for device, use in zip(sorted(lowering.place), result.devices, strict=True):
        stage = lowering.stages[rank_of[device] // case.plan.tp % case.plan.pp]
        costs = [lowering.costs.of("")[i].samples for i in stage.layers]
        once = sum(c.forward_s[0] + c.backward_input_s[0] + c.backward_weight_s[0] for c in costs)
        update = sum(c.optimizer_s[0] for c in costs)
        expected_s = (once * case.plan.microbatches + update) / case.topology.devices[device].speed
        assert use.compute_s == pytest.approx(expected_s, rel=1e-9, abs=1e-12)


# Memory.


def check_memory(run: Run) -> None:
    case, lowering, result = run
    rank_of = {device: rank for rank, device in enumerate(lowering.place)}
    for device, use in zip(sorted(lowering.place), result.devices, strict=True):
        p = rank_of[device] // case.plan.tp % case.plan.pp
        stage, memory = lowering.stages[p], use.memory
        resident = sum(sum(sizes.values()) for sizes in stage.held.values())
        resident += sum(bucket.bytes for bucket in stage.buckets)
        assert memory.timeline_s[0] == 0.0
        assert ascending(memory.timeline_s)
        assert len(set(memory.timeline_s)) == len(memory.timeline_s) == len(memory.timeline_bytes)
        assert memory.timeline_bytes[-1] == resident
        at_once = zip(*(one.held(memory.timeline_s) for one in memory.by_holder), strict=True)
        assert not resident or [sum(held) for held in at_once] == list(memory.timeline_bytes)
        assert min(memory.timeline_bytes) >= resident
        assert max(memory.timeline_bytes) <= memory.peak_bytes
        held_at_once = _most_in_flight(lowering, p)
        kept = held_at_once * stage.activation_bytes
        gradients = sum(gradient.bytes for _, gradient in stage.gradients)
        # Gradients, one layer's new ones that are added to them, those of tied weights until they are complete, and
        # those that have come to a layer.
        begun = sum(gradient.bytes for layer in stage.begun for gradient in layer)
        more = 2 * gradients + begun + max(stage.arriving)
        assert resident + kept <= memory.peak_bytes <= resident + kept + more
        if case.plan.schedule == "1f1b":
            assert held_at_once <= min(case.plan.pp - p, case.plan.microbatches)


def _most_in_flight(lowering: Lowering, p: int) -> int:
    """Count along the row: forwards begun less backwards done."""
    count, most = 0, 0
    for operation in lowering.rows[p]:
        count += {"F": 1, "B": 0, "I": 0, "W": 0}[operation.kind]
        most = max(most, count)
        count -= operation.kind in "BW"
    return most


CHECKS = (check_payload, check_link_bytes, check_accounts, check_free, check_alone, check_compute, check_memory)


def check_all(run: Run) -> None:
    for check in CHECKS:
        check(run)


test_all_of_it_holds = FEW(given(runs)(check_all))
test_all_of_it_holds_of_many = pytest.mark.slow(MANY(given(runs)(check_all)))


@FEW
@given(runs)
def test_spans_that_are_left_out_change_nothing(run):
    assert simulate(*run.case) == run.result
    assert fastest_cut(lower(*run.case)).stages == run.lowering.stages
    small = simulate(*run.case, spans=False)
    assert small == replace(run.result, spans=Spans(), steady_s=small.steady_s)
    assert small.steady_s in (None, run.result.steady_s)
