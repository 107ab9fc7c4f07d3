"""What a value prints at a prompt: never more than fits on a screen, whatever it holds."""

from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import mpsim
from mpsim.reprs import brief, short_repr
from mpsim.result.frames import summary_row
from mpsim.search.found import Found
from mpsim.sweeps.model import COLUMNS, SweepResult, finish

WORKLOADS = sorted((Path(__file__).parent.parent / "workloads").glob("*.json"))
MOST = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    name: str = ""
    values: tuple[float, ...] = ()
    one: int = 1
    hidden: int = field(default=0, repr=False)
    many: dict = field(default_factory=dict)

    __repr__ = short_repr


def test_what_is_at_its_default_goes_unsaid() -> None:
    assert repr(Sample()) == "Sample()"
    assert repr(Sample(name="a", values=(0.5,), hidden=3)) == "Sample(name='a', values=(0.5,))"
    assert repr(Sample(many={"a": (1,) * 9})) == "Sample(many={'a': <9 ints>})"


def test_a_plan_reads_as_it_is_written() -> None:
    assert repr(mpsim.Plan(dp=2, pp=4, microbatches=8)) == "Plan(dp=2, pp=4, microbatches=8)"
    plan = mpsim.Plan(pp=2, boundaries=(3,), sharding=mpsim.Plan().sharding)
    assert eval(repr(plan), {"Plan": mpsim.Plan}) == plan


def test_strings_of_strangers_are_short_and_printable() -> None:
    text = repr(Sample(name="\x1b[31m" + "x" * 10_000 + "\n"))
    assert len(text) < 100
    assert text.isprintable()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros(5000), "array"), ((), "()"), ([1, "a"], "[1, 'a']"), ((1, "a") * 9, "<9 ints, 9 strs>"),
        (len, "len"), (None, "None"), (0.1, "0.1"), (("x" * 60,) * 4, "<4 strs>"), ({1: 2}, "{1: 2}"),
    ],
)  # fmt: skip
def test_any_value_in_few_words(value, text) -> None:
    assert brief(value).startswith(text)
    assert len(brief(value)) <= 160


def parts_of(value, depth=0):
    """Yield a value, and every one of mpsim's that it holds, a few of each sequence."""
    if type(value).__module__.startswith("mpsim"):
        yield value
    if is_dataclass(value) and depth < 5:
        for one in fields(value):
            held = getattr(value, one.name)
            for item in (*held[:2], held[-1]) if isinstance(held, tuple) and held else (held,):
                yield from parts_of(item, depth + 1)


def large_values():
    gpt2, mlp = (mpsim.load_workload(path) for path in WORKLOADS if path.name in ("gpt2.h200.json", "vgg16.cpu.json"))
    cluster = mpsim.parse_topology("dgx_h200:64")
    plan = mpsim.Plan(dp=256, tp=2, batch=2048, runtime="torch-nccl", devices=range(512))
    result = mpsim.simulate(gpt2, cluster, plan)
    yield from (gpt2, mlp, cluster, plan, result)
    row = dict.fromkeys(COLUMNS) | summary_row(result)
    sweep = finish([row | {"plan": f"dp={n} " + "stages=1,2,3 " * 100, "step_s": n / 7} for n in range(1, 500)], 600, 2)
    yield from (sweep, finish([row | {"global_batch": n} for n in range(1, 50)], 49, 2))
    reasons = {f"reason {n}": n for n in range(100)}
    yield Found(sweep=sweep, planned=10**6, counts={"simulated": 499}, reasons=reasons, plans=dict.fromkeys("ab", plan))
    yield from (mpsim.Study(gpt2, cluster), mpsim.Axes(devices=tuple(range(1, 1000))))
    yield mpsim.explain(gpt2, mpsim.parse_topology("dgx_h200:1"), mpsim.Plan(dp=4, batch=32), what_ifs=False)
    failures = mpsim.Failures(listed=tuple(mpsim.Event(at_s=float(n), what="n0.d0") for n in range(1, 1000)))
    yield failures
    yield mpsim.goodput(
        gpt2, cluster, replace(plan, dp=2, devices=(), batch=16), failures=mpsim.Failures(mtbf_s=1e6), horizon="1 day",
        checkpoints=mpsim.Checkpoints(every_s=600.0, write_s=9.0), trials=300,
    )  # fmt: skip
    yield mpsim.Job(name="x" * 10_000, workload=gpt2, plan=plan, by_type=dict.fromkeys("abc", mlp))


def test_no_public_value_prints_more_than_a_screen() -> None:
    for value in large_values():
        for part in parts_of(value):
            text = repr(part)
            assert len(text) < MOST, (type(part), len(text))
            assert "\n" not in text


@pytest.mark.parametrize("path", WORKLOADS, ids=lambda path: path.stem)
def test_every_stored_workload_is_short(path) -> None:
    workload = mpsim.load_workload(path)
    assert all(len(repr(part)) < MOST for part in parts_of(workload))
    assert repr(workload).startswith(f"Workload(name={workload.name!r}, layers=<{len(workload.layers)} Layers>")


def test_a_sweep_says_how_many_plans_and_which_is_the_best() -> None:
    assert repr(SweepResult(rows=(), planned=3)) == "<SweepResult: 0 of 3 plans, none of which can be run and fits>"
    layers = [mpsim.Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "abcd"]
    work, ring = mpsim.Workload.chain("four", layers), mpsim.parse_topology("chain:4,link=1GB/s@0")
    found = mpsim.sweep(work, ring, batch=8, processes=1)
    assert (
        repr(found)
        == f"<SweepResult: {found.planned} of {found.planned} plans; best: {found.best['plan']}, 24 s a step>"
    )
    assert "of 2 workloads and batches" in repr(mpsim.sweep(work, ring, batch=[4, 8], devices=1, processes=1))
    search = mpsim.best(mpsim.Study(work, ring), batch=8, processes=1)
    assert repr(search).startswith(f"<Found: {search.planned} of {search.planned} plans decided; best: dp=4")
