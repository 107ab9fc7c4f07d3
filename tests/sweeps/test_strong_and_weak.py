"""Strong and weak scaling by hand, and what is never compared."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsim.sweeps import SweepResult, scaling_rows, scaling_text
from mpsim.sweeps.model import COLUMNS, Row, finish
from mpsim.sweeps.strong_and_weak import SCALING_COLUMNS

QUESTION = "code-work-topo-opts-{}-grid:0"


def row(batch: int, n: int, step_s: float, **more) -> Row:
    steps = dict.fromkeys(("step_s", "step_p5_s", "step_p95_s"), step_s)
    named = {"workload": "w", "topology": "t", "plan": f"dp={n}", "runtime": "ideal", "global_batch": batch}
    return dict.fromkeys(COLUMNS) | steps | named | {"n_devices": n, "fits": True} | more


def swept(*rows: Row) -> SweepResult:
    return finish(rows, len(rows), 1)


def by_place(rows: list[Row], *names: str) -> dict:
    return {(one["series"], one["global_batch"], one["n_devices"]): tuple(one[name] for name in names) for one in rows}


def test_by_hand() -> None:
    found = swept(
        row(8, 1, 4.0), row(8, 2, 2.5), row(8, 2, 2.0), row(8, 4, 1.25),
        row(16, 1, 9.0, fits=False), row(16, 2, 5.0, plan="best"), row(16, 4, 2.5),
        row(32, 4, 8.0, fits=None), row(12, 3, 4.5), row(7, 1, None, reason="does not divide"),
    )  # fmt: skip
    rows = scaling_rows(found)
    assert all(tuple(one) == SCALING_COLUMNS for one in rows)
    strong = by_place(rows, "speedup", "speedup_over_devices", "efficiency_fraction")
    assert strong == {
        ("", 8, 1): (1.0, 1, 1.0), ("", 8, 2): (2.0, 1, 1.0), ("", 8, 4): (3.2, 1, 0.8),
        ("", 12, 3): (1.0, 3, 1.0),
        ("", 16, 2): (1.0, 2, 1.0), ("", 16, 4): (2.0, 2, 1.0),  # on one device it does not fit
        ("", 32, 4): (1.0, 4, 1.0),
    }  # fmt: skip
    weak = by_place(rows, "batch_per_device", "weak_efficiency_fraction", "weak_over_devices")
    assert weak == {
        ("", 8, 1): (8.0, 1.0, 1), ("", 8, 2): (4.0, 1.0, 2), ("", 8, 4): (2.0, None, None),
        ("", 12, 3): (4.0, 2.0 / 4.5, 2),
        ("", 16, 2): (8.0, 0.8, 1), ("", 16, 4): (4.0, 0.8, 2),
        ("", 32, 4): (8.0, 0.5, 1),
    }  # fmt: skip
    assert by_place(rows, "plan", "throughput_samples_per_s")["", 16, 2] == ("best", 3.2)


def test_tokens_count_where_they_are_known() -> None:
    tokens = by_place(scaling_rows(swept(row(8, 1, 4.0, tokens_per_sample=512))), "throughput_tokens_per_s")
    assert tokens == {("", 8, 1): (1024.0,)}


def test_one_question_in_two_tables_is_one_series() -> None:
    tables = [swept(row(8 * n, n, 4.0 + n, question=QUESTION.format(n))) for n in (1, 2)]
    assert by_place(scaling_rows(tables), "weak_efficiency_fraction") == {("", 8, 1): (1.0,), ("", 16, 2): (5 / 6,)}


@pytest.mark.parametrize(
    ("changed", "labels"),
    [
        ({"workload": "long"}, ["w", "long"]),
        ({"topology": "ring"}, ["t", "ring"]),
        ({"workload": "long", "topology": "ring"}, ["w, t", "long, ring"]),
        ({"runtime": "torch-nccl", "question": QUESTION.replace("opts", "other")}, ["ideal", "torch-nccl"]),
        ({"question": QUESTION.replace("opts", "other")}, ["a.csv", "b.csv"]),
        ({"question": QUESTION.replace("code", "newer")}, ["a.csv", "b.csv"]),
        ({"question": None}, ["a.csv", "b.csv"]),  # a table that does not say what was asked
        ({"global_batch": 8}, ["a.csv", "b.csv"]),  # one batch twice: of other grids
    ],
)
def test_what_differs_is_the_label_and_is_not_compared(changed, labels) -> None:
    tables = [swept(row(8, 1, 4.0, question=QUESTION)), swept(row(16, 2, 5.0, question=QUESTION) | changed)]
    rows = scaling_rows(tables, ["a.csv", "b.csv"])
    assert [one["series"] for one in rows] == labels
    assert {one["weak_efficiency_fraction"] for one in rows} == {None}


@given(st.dictionaries(st.tuples(st.sampled_from([6, 8, 12, 24]), st.integers(1, 8)), st.floats(0.1, 10), min_size=1))
def test_each_is_held_against_the_fewest_devices_of_like_kind(steps) -> None:
    rows = scaling_rows(swept(*(row(batch, n, step_s) for (batch, n), step_s in steps.items())))
    assert len(rows) == len(steps)
    for one in rows:
        batch, n = one["global_batch"], one["n_devices"]
        fewest = min(m for b, m in steps if b == batch)
        assert one["speedup"] == steps[batch, fewest] / steps[batch, n]
        alike = [(b, m) for b, m in steps if Fraction(b, m) == Fraction(batch, n)]
        if len(alike) == 1:
            assert one["weak_efficiency_fraction"] is None
        else:
            first = min(alike, key=lambda pair: pair[1])
            assert one["weak_efficiency_fraction"] == steps[first] / steps[batch, n]
            assert one["weak_over_devices"] == first[1]


def test_as_text() -> None:
    found = swept(row(8, 1, 4.0, caveats="scaled"), row(16, 2, 5.0, caveats="scaled"))
    assert scaling_text(scaling_rows(found)).splitlines() == [
        "caution: scaled",
        "batch  devices  plan  step  samples/s  speedup  efficiency  batch/device     weak  fits",
        "    8        1  dp=1   4 s          2    1.00x     100.0 %             8  100.0 %  yes",
        "   16        2  dp=2   5 s        3.2    1.00x     100.0 %             8   80.0 %  yes",
        "",
        "speedup: of the same batch, over the fewest devices with a plan; efficiency: by as many times the devices",
        "weak: throughput of a device, by that on the fewest devices with the same batch a device",
    ]
    assert scaling_text(scaling_rows(swept(row(8, 1, 4.0, fits=False)))).startswith("no plan that can be run fits")
