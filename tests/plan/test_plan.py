"""Plans: what is refused, what they are called, where ranks stand."""

import pytest
from cases import chained, layer

from mpsim.errors import MpsimError
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan, load_plan, save_plan
from mpsim.plan.runtimes import resolve_runtime
from mpsim.plan.schedules import gpipe
from mpsim.simulation import simulate
from mpsim.topology.builders import ring
from mpsim.topology.wire import Wire

WIRE = Wire(1024.0)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"dp": 0}, "dp is 0, expected 1 or more"),
        ({"pp": -1}, "pp is -1, expected 1 or more"),
        ({"tp": 0}, "tp is 0"),
        ({"microbatches": 0}, "microbatches is 0"),
        ({"bucket_bytes": 0}, "bucket_bytes is 0"),
        ({"first_bucket_bytes": 0}, "first_bucket_bytes is 0"),
        ({"batch": -1}, "batch is -1"),
        (
            {"batch": 10, "dp": 2, "microbatches": 2},
            "batch of 10 does not divide into dp(2) × micro-batches(2) = 4 equal parts",
        ),
        ({"pp": 3, "boundaries": (1,)}, "plan has 1 stage boundaries, pp=3 needs 2"),
        ({"boundaries": (1,)}, "plan has 1 stage boundaries, pp=1 needs 0"),
        ({"pp": 2, "devices": (0,)}, "plan places 1 devices, plan needs dp(1) × pp(2) × tp(1) = 2 devices"),
        ({"pp": 2, "devices": (1, 1)}, "plan places one device at two ranks: [1, 1]"),
        ({"schedule": "gpip"}, "unknown schedule 'gpip'; did you mean 'gpipe'?"),
        ({"runtime": "idal"}, "unknown runtime 'idal'; did you mean 'ideal'?"),
    ],
)
def test_bad_plans_are_refused_with_both_values(fields, expected):
    with pytest.raises(MpsimError) as error:
        Plan(**fields)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_more_ranks_than_devices():
    work = chained([layer(name) for name in "abcd"], 8)
    with pytest.raises(MpsimError) as error:
        simulate(work, ring(8, link=WIRE), Plan(dp=4, pp=4))
    assert str(error.value).startswith("plan needs dp(4) × pp(4) × tp(1) = 16 devices, topology has 8")


@pytest.mark.parametrize("devices", [(0, 8), (-1, 0)])
def test_a_device_that_is_not_there(devices):
    with pytest.raises(MpsimError, match="topology has 0 to 7"):
        Plan(pp=2, devices=devices).place(8)


def test_ranks_stand_in_the_order_of_the_grid():
    assert Plan(dp=2, tp=2).place(8) == (0, 1, 2, 3)
    assert Plan(dp=2, tp=2, devices=(7, 6, 5, 4)).place(8) == (7, 6, 5, 4)


@pytest.mark.parametrize(
    ("fields", "strategy", "text"),
    [
        ({}, "single", "dp=1"),
        ({"dp": 2}, "data", "dp=2"),
        ({"tp": 2}, "tensor", "tp=2"),
        ({"pp": 2}, "naive", "pp=2 naive"),
        ({"pp": 2, "microbatches": 4}, "1f1b", "pp=2 micro-batches=4 1f1b"),
        ({"pp": 2, "microbatches": 4, "schedule": gpipe}, "gpipe", "pp=2 micro-batches=4 gpipe"),
        ({"pp": 2, "dp": 2, "microbatches": 4}, "hybrid", "dp=2 pp=2 micro-batches=4 1f1b"),
    ],
)
def test_names(fields, strategy, text):
    plan = Plan(**fields)
    assert (plan.strategy, plan.text) == (strategy, text)


@pytest.mark.parametrize(
    "plan", [Plan(), Plan(dp=2, pp=2, batch=8, microbatches=2, boundaries=(3,), runtime="blocking")]
)
def test_there_and_back(plan, tmp_path):
    save_plan(tmp_path / "plan.json", plan)
    assert load_plan(tmp_path / "plan.json") == plan


def test_a_file_holds_no_plan_that_could_not_be_made(tmp_path):
    path = tmp_path / "plan.json"
    save_plan(path, Plan(pp=2))
    path.write_text(path.read_text().replace('"pp": 2', '"pp": 0'))
    with pytest.raises(MpsimError, match=r"plan\.json: plan: plan: pp is 0, expected 1 or more"):
        load_plan(path)


def test_runtimes_say_what_they_do():
    assert resolve_runtime("ideal").posting == "eager"
    assert resolve_runtime("blocking").posting == "blocking"


def test_a_function_and_its_name_are_one_schedule():
    work = chained([layer(name) for name in "ab"], 8)
    results = [simulate(work, ring(2, link=WIRE), Plan(pp=2, microbatches=3, schedule=s)) for s in (gpipe, "gpipe")]
    assert results[0] == results[1]


def test_balanced_stages_are_those_named():
    work = chained([layer(name) for name in "abcd"], 8)
    found = lower(work, ring(2, link=WIRE), Plan(pp=2))
    named = lower(work, ring(2, link=WIRE), Plan(pp=2, boundaries=(2,)))
    assert found.stages == named.stages
