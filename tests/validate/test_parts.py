"""Where a step goes and where a difference arises, worked out by hand."""

import pytest

from mpsim.result.model import DeviceUse, Result, Spans
from mpsim.validate.parts import differences, parts_of


def result_of(step_s, devices, *spans):
    """Return a result with spans (kind, axis, devices, start, end); all-reduces between stages are of tied layers."""
    kinds, axes, where, starts, ends = zip(*spans, strict=True)
    count = len(spans)
    names = tuple("tied x" if kind == "all_reduce" else "x" for kind in kinds)
    columns = Spans(
        name=names, kind=kinds, axis=axes, devices=where, stage=(0,) * count, microbatch=(0,) * count,
        bytes=(0,) * count, start_s=starts, end_s=ends,
    )  # fmt: skip
    use = DeviceUse(name="d", compute_s=0.0, exposed_communication_s=0.0, idle_s=step_s)
    return Result(
        workload="w", topology="t", plan="p", step_s=step_s, trial_step_s=(step_s,), free_step_s=None,
        devices=(use,) * devices, spans=columns,
    )  # fmt: skip


def test_compute_hides_transfers_and_the_rest_is_idle():
    #        0    1    2    3    4    5
    # dev 0  ffff ...                     forward 0-1, send 1-3
    # dev 1                 bbbb          backward 3-4, step 5
    result = result_of(
        5.0, 2, ("forward", "", (0,), 0.0, 1.0), ("send", "pp", (0, 1), 0.5, 3.0), ("backward", "", (1,), 3.0, 4.0)
    )
    parts = parts_of(result)
    # Device 0: compute 1, sends 2, idle 2. Device 1: sends 2.5, compute 1, idle 1.5.
    assert parts == pytest.approx(
        {"compute": 1.0, "sends": 2.25, "tied": 0, "dp": 0, "tp": 0, "cp": 0, "ep": 0, "collectives": 0, "idle": 1.75}
    )
    assert sum(parts.values()) == pytest.approx(5.0)


def test_transfers_of_two_kinds_at_once_share_the_time():
    result = result_of(
        4.0, 1, ("all_reduce", "dp", (0,), 0.0, 2.0), ("all_reduce", "pp", (0,), 1.0, 3.0), ("notice", "pp", (0,), 3, 4)
    )
    parts = parts_of(result)
    assert (parts["dp"], parts["tied"], parts["sends"], parts["idle"]) == pytest.approx((1.5, 1.5, 1.0, 0.0))


def test_what_leads_up_to_a_transfer_is_of_its_part():
    result = result_of(
        4.0, 1, ("post", "dp", (0,), 0.0, 1.0), ("notice", "tp", (0,), 1.0, 3.0), ("post", "pp", (0,), 3, 4)
    )
    parts = parts_of(result)
    assert (parts["dp"], parts["tp"], parts["sends"], parts["compute"]) == (1.0, 2.0, 1.0, 0.0)


def test_what_copies_of_a_stage_reduce_counts_as_what_stages_share_notices_included():
    names = ("copies of stage 0", "copies of stage 0", "0F0>1", "0F0>1")
    kinds, axes, where = ("notice", "all_reduce", "notice", "send"), ("pp",) * 4, ((0,),) * 4
    nothing = (0,) * 4
    columns = Spans(
        name=names, kind=kinds, axis=axes, devices=where, stage=nothing, microbatch=nothing, bytes=nothing,
        start_s=(0.0, 1.0, 3.0, 3.5), end_s=(1.0, 3.0, 3.5, 5.0),
    )  # fmt: skip
    use = DeviceUse(name="d", compute_s=0.0, exposed_communication_s=5.0, idle_s=0.0)
    parts = parts_of(
        Result(
            workload="w", topology="t", plan="p", step_s=5.0, trial_step_s=(5.0,), free_step_s=None, devices=(use,),
            spans=columns,
        )
    )  # fmt: skip
    assert (parts["tied"], parts["sends"], parts["idle"]) == (3.0, 2.0, 0.0)


def test_two_transfers_of_one_kind_at_once_count_once():
    result = result_of(4.0, 1, ("all_reduce", "tp", (0,), 0.0, 3.0), ("all_reduce", "tp", (0,), 1.0, 2.0))
    assert parts_of(result)["tp"] == pytest.approx(3.0)


def test_the_differences_of_all_parts_are_the_error():
    predicted = result_of(4.0, 1, ("forward", "", (0,), 0.0, 1.0), ("send", "pp", (0,), 1.0, 4.0))
    measured = result_of(5.0, 1, ("forward", "", (0,), 0.0, 1.5), ("send", "pp", (0,), 2.0, 5.0))
    found = differences(predicted, measured)
    assert found["compute"] == pytest.approx(-0.1)
    assert found["sends"] == pytest.approx(0.0)
    assert found["idle"] == pytest.approx(-0.1)
    assert sum(found.values()) == pytest.approx(4.0 / 5.0 - 1)
