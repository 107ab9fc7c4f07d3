"""Every option of a command is a field of the value that its functions are given, and every field is an option."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import get_type_hints

import click
import pytest

from mpsim.cli.options import options_of
from mpsim.cli.planning import PlanOptions, plan_of
from mpsim.cli.scaling import ScalingOptions
from mpsim.plan.model import Plan, save_plan
from mpsim.plan.sharding import Sharding

SCALING = {"costs": ("T4=a.json",), "rescale": None, "speed": 2.0}
COMMANDS = [
    "best", "calibrate", "emulate", "explain", "export.chakra", "goodput", "import_", "report", "simulate", "sweep",
    "trace", "validate.emulated",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    scaling: ScalingOptions
    seed: int


def test_a_group_takes_its_fields_out_of_the_same_options():
    asked = options_of(Asked, {**SCALING, "seed": 7})
    assert asked == Asked(scaling=ScalingOptions(**SCALING), seed=7)


def test_an_option_that_no_field_has_is_an_error_of_the_program():
    with pytest.raises(TypeError, match="Asked has no field for depth, top"):
        options_of(Asked, {**SCALING, "seed": 7, "depth": 1, "top": 2})


def test_a_field_that_no_option_is_is_one_too():
    with pytest.raises(TypeError, match=r"ScalingOptions\.speed is no option"):
        options_of(Asked, {"costs": (), "rescale": None, "seed": 7})


def names(kind: type) -> Iterator[str]:
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from names(hints[field.name])
        else:
            yield field.name


@pytest.mark.parametrize("name", COMMANDS)
def test_fields_are_the_options_that_are_no_parameters(name):
    module, _, inner = name.partition(".")
    room = import_module(f"mpsim.cli.{module}")
    command = getattr(room, module)
    command = command.commands[inner] if inner else command
    parameters = inspect.signature(inspect.unwrap(command.callback)).parameters
    options = {option.name for option in command.params if isinstance(option, click.Option)}
    assert sorted(names(room._Asked)) == sorted(options - parameters.keys())


NOTHING = {field.name: None for field in fields(PlanOptions)} | dict.fromkeys(("fsdp", "sequence", "accumulate"), False)


def planned(**said):
    return plan_of(PlanOptions(**NOTHING | said), None, 8)


def test_what_runs_again_and_what_is_offloaded_reach_the_plan(tmp_path):
    assert planned(recompute="h.*,except-last", offload="all").sharding == Sharding(
        recompute="h.*,except-last", offload="all"
    )
    save_plan(tmp_path / "plan.json", Plan(dp=2, sharding=Sharding(recompute="full", offload="0")))
    file = str(tmp_path / "plan.json")
    assert planned(plan=file, zero=3).sharding == Sharding(zero=3, recompute="full", offload="0")
    assert planned(plan=file, recompute="none").sharding == Sharding(offload="0")


def test_another_stage_of_zero_keeps_what_it_has_a_use_for(tmp_path):
    whole = Sharding(zero=3, shards=2, gather_dtype="bfloat16", accumulate=True, units="layers", sequence=True)
    save_plan(tmp_path / "plan.json", Plan(dp=4, tp=2, sharding=whole))
    kept = {"shards": 2, "gather_dtype": "bfloat16", "sequence": True}
    for zero, left in ((3, whole), (2, Sharding(zero=2, accumulate=True, **kept)), (1, Sharding(zero=1, **kept)),
                       (0, Sharding(sequence=True))):  # fmt: skip
        found = planned(plan=str(tmp_path / "plan.json"), zero=zero)
        assert found.sharding == left


def test_zero_is_a_number_too(tmp_path):
    """0 == False: --gather-ahead 0 was taken for an option left out."""
    assert planned(dp=2, fsdp=True, gather_ahead=0).sharding == Sharding(zero=3, gather_ahead=0)
    save_plan(tmp_path / "plan.json", Plan(dp=4, sharding=Sharding(zero=3, shards=2)))
    assert planned(plan=str(tmp_path / "plan.json"), shards=0).sharding == Sharding(zero=3)
    assert PlanOptions(**NOTHING | {"shards": 0}).of_a_plan_alone == ("shards",)
