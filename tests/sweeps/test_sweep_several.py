"""Sweeps of several workloads and batches: each ranked as by itself, in one table that is gone on with."""

from dataclasses import replace
from pathlib import Path

import pytest

import mpsim
from mpsim.sweeps import SweepInterrupted, SweepResult, load_sweep, sweep, table
from mpsim.sweeps import run as running

HAND = str(Path(__file__).parents[1] / "data" / "hand.workload.json")
ASKED = {"trials": 2, "processes": 1, "tensor": [1], "schedules": ["gpipe", "1f1b"]}


@pytest.fixture(scope="module")
def work() -> mpsim.Workload:
    return mpsim.load_workload(HAND)


@pytest.fixture(scope="module")
def longer(work) -> mpsim.Workload:
    """The same model under another name, its layers twice as long."""
    times = ("forward_s", "backward_input_s", "backward_weight_s")
    layers = []
    for layer in work.layers:
        costs = [
            replace(
                cost,
                samples=replace(
                    cost.samples, **{name: tuple(2 * s for s in getattr(cost.samples, name)) for name in times}
                ),
            )
            for cost in layer.costs
        ]
        layers.append(replace(layer, costs=tuple(costs)))
    return replace(work, name="longer", layers=tuple(layers), checks=())


@pytest.fixture(scope="module")
def ring() -> mpsim.Topology:
    return mpsim.parse_topology("ring:2,link=eth_10g,memory=1GiB")


@pytest.fixture(scope="module")
def alone(work, longer, ring) -> list[SweepResult]:
    return [sweep(one, ring, batch=batch, **ASKED) for one in (work, longer) for batch in (4, 8, 16)]


@pytest.fixture(scope="module")
def whole(work, longer, ring, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("several") / "t.csv"
    sweep([work, longer], ring, batch=[8, 4, 16, 8], **ASKED, output=path)
    return path


def test_each_is_ranked_as_by_itself(whole, alone) -> None:
    found = load_sweep(whole)
    assert [(g.rows[0]["workload"], g.rows[0]["global_batch"]) for g in found.groups] == [
        (name, batch) for name in ("hand", "longer") for batch in (4, 8, 16)
    ]
    for group, one in zip(found.groups, alone, strict=True):
        plain = [row | {"question": None} for row in group.rows]
        assert plain == [*one.rows]  # ranks, ties, speedups and baselines too
        assert group.best == one.best | {"question": group.best["question"]}
    assert [row["rank"] for row in found.ranked if row["rank"] == 1] == [1] * 6
    with pytest.raises(mpsim.MpsimError, match="6 workloads and batches have a best plan each"):
        _ = found.best


def test_processes_do_not_matter(work, longer, ring, whole) -> None:
    found = sweep([work, longer], ring, batch=(4, 8, 16), **(ASKED | {"processes": 2}))
    assert [row | {"question": None} for row in load_sweep(whole).rows] == [*found.rows]


def test_an_interrupted_one_goes_on_and_ends_in_the_same_bytes(
    work, longer, ring, whole, tmp_path, monkeypatch
) -> None:
    def stop(done: int, total: int) -> None:
        assert total == len(load_sweep(whole).rows)
        if done == total - 3:
            raise KeyboardInterrupt

    path, computed = tmp_path / "t.csv", []
    row_here = running.row_here
    monkeypatch.setattr(running, "row_here", lambda *given: computed.append(given) or row_here(*given))
    asked = ASKED | {"output": path, "batch": [4, 8, 16]}
    with pytest.raises(SweepInterrupted):
        sweep([work, longer], ring, **asked, progress=stop)
    assert table(load_sweep(path)).startswith("series")
    sweep([work, longer], ring, **asked)
    assert path.read_bytes() == whole.read_bytes()
    assert len(computed) == len(load_sweep(whole).rows)


@pytest.mark.parametrize(
    ("workloads", "asked", "part"),
    [
        (("work", "longer"), {"batch": [4, 8]}, "another batch or baseline"),
        (("longer", "work"), {}, "another workload"),
        (("work",), {}, "another batch or baseline"),
        (("work", "longer"), {"schedules": ["gpipe"]}, "another grid of plans"),
        (("work", "longer"), {"host_speed": 2.0}, "other options"),
    ],
)
def test_another_question_is_refused(request, ring, whole, workloads, asked, part) -> None:
    before = whole.read_bytes()
    works = [request.getfixturevalue(name) for name in workloads]
    with pytest.raises(mpsim.MpsimError, match=f"answers a sweep of {part}; name another file"):
        sweep(works, ring, **(ASKED | {"batch": [4, 8, 16]} | asked), output=whole)
    assert whole.read_bytes() == before


def test_rows_of_one_batch_are_known_among_several(work, longer, ring, alone, tmp_path) -> None:
    one = sweep(work, ring, batch=8, **ASKED, cache=tmp_path)
    found = sweep([longer, work], ring, batch=[8, 16], **ASKED, cache=tmp_path)
    assert (one.known, found.known) == (0, one.planned)
    assert found.groups[2].rows == alone[1].rows
    again = sweep([work, longer], ring, batch=[16, 8], **ASKED, cache=tmp_path)
    assert again.known == again.planned == found.planned


def test_each_batch_has_its_own_baseline(work, ring) -> None:
    naive = [
        mpsim.simulate(work, ring, mpsim.Plan(pp=2, batch=batch, microbatches=batch // 4, schedule="naive"))
        for batch in (8, 16)
    ]
    found = sweep(work, ring, batch=[8, 16], baseline=naive, **ASKED)
    for group, held in zip(found.groups, naive, strict=True):
        assert {row["baseline_step_s"] for row in group.ranked} == {held.step_s}
        assert all(row["speedup"] == held.step_s / row["step_s"] for row in group.ranked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"batch": []}, "a sweep of no batch"),
        ({"batch": [8, 0]}, "batch is 0"),
        ({"workload": []}, "a sweep of no workload"),
        ({"workload": "twice"}, "two workloads are called 'hand'"),
        ({"by_type": "one"}, "costs by type of device are of one workload, 2 are swept"),
        ({"baseline": "of 8"}, "global batch of 8, the sweep 4"),
        ({"baseline": ["of 8"]}, "no baseline is of 'hand' with a global batch of 4"),
    ],
)
def test_what_makes_no_sense_is_refused(work, longer, ring, asked, message) -> None:
    result = mpsim.simulate(work, ring, mpsim.Plan(batch=8, microbatches=2))
    named = {"twice": [work, work], "one": {"T4": work}, "of 8": result}
    given = {"workload": [work, longer], "batch": [4, 8]}
    for name, value in asked.items():
        given[name] = [result] if value == ["of 8"] else named[value] if isinstance(value, str) else value
    with pytest.raises(mpsim.MpsimError, match=message):
        sweep(topology=ring, **given)


def test_the_table_tells_them_apart(whole) -> None:
    text = table(load_sweep(whole), top=1)
    scaling, ranked = (part.splitlines() for part in text.split("\nworkload  batch  rank"))
    assert scaling[0].split()[:5] == ["series", "batch", "devices", "plan", "step"]
    assert len(scaling) == 1 + 6 * 2 + 3
    assert [line.split()[:3] for line in ranked[1:7]] == [
        [name, batch, "1"] for name in ("hand", "longer") for batch in ("4", "8", "16")
    ]
    assert "longer, batch 16: 1 of " in text
