"""A sweep's rows outlive it: whatever is in its file is gone on with, and the file is the same in the end."""

import json
import multiprocessing
import os
import random
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpsim
from mpsim.plan.schedules import SCHEDULES, gpipe
from mpsim.sweeps import SweepInterrupted, load_sweep, sweep
from mpsim.sweeps import run as running
from mpsim.sweeps.cache import Cache, cache_folder
from mpsim.sweeps.executors import cluster_executor
from mpsim.sweeps.journal import whole_records
from mpsim.sweeps.question import Question, digest

HAND = str(Path(__file__).parents[1] / "data" / "hand.workload.json")
ASKED = {"batch": 8, "trials": 2, "processes": 1}


@pytest.fixture(scope="module")
def work() -> mpsim.Workload:
    return mpsim.load_workload(HAND)


@pytest.fixture(scope="module")
def ring() -> mpsim.Topology:
    return mpsim.parse_topology("ring:2,link=eth_10g,memory=1GiB")


@pytest.fixture(scope="module")
def whole(work, ring, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "t.csv"
    sweep(work, ring, **ASKED, output=path)
    return path


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The plans whose rows were computed in this process."""
    found: list[str] = []
    row_here = running.row_here

    def row(job, candidate):
        found.append(candidate)
        return row_here(job, candidate)

    monkeypatch.setattr(running, "row_here", row)
    return found


def stopped_after(count: int):
    def stop(done: int, total: int) -> None:
        if done >= count:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_interrupted_sweep_goes_on_and_ends_in_the_same_bytes(work, ring, tmp_path, suffix, computed) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path, other = tmp_path / f"t.{suffix}", tmp_path / f"other.{suffix}"
    found = sweep(work, ring, **ASKED, output=other)
    computed.clear()
    with pytest.raises(SweepInterrupted):
        sweep(work, ring, **ASKED, output=path, progress=stopped_after(4))
    assert len(computed) == 4
    assert len(load_sweep(tmp_path / ("t.csv" if suffix == "csv" else "t.parquet.csv")).ranked) > 0
    assert sweep(work, ring, **ASKED, output=path) == found
    assert len(computed) == found.planned
    assert path.read_bytes() == other.read_bytes()
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted([path.name, other.name])
    assert sweep(work, ring, **ASKED, output=path) == found
    assert len(computed) == found.planned
    assert path.read_bytes() == other.read_bytes()


@settings(max_examples=12)
@given(cut=st.integers(0), shuffled=st.randoms(use_true_random=False))
def test_from_any_beginning_of_its_rows_in_any_order_it_ends_in_the_same_bytes(whole, work, ring, cut, shuffled):
    """Rows come as processes end; a killed one leaves the beginning of a row."""
    header, *lines = whole.read_bytes().splitlines(keepends=True)
    shuffled.shuffle(lines)
    data = header + b"".join(lines)
    path = whole.with_name("cut.csv")
    path.write_bytes(data[: cut % len(data)])
    sweep(work, ring, **ASKED, output=path)
    assert path.read_bytes() == whole.read_bytes()


def test_a_table_without_speedups_is_another_question(work, ring, whole, tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(whole.read_bytes())
    with pytest.raises(mpsim.MpsimError, match="another batch or baseline"):
        sweep(work, ring, **ASKED, output=path, speedups=False)
    found = sweep(work, ring, **ASKED, output=path, speedups=False, resume=False)
    assert {row["speedup"] for row in found.rows} == {None}


def test_a_link_is_written_through(work, ring, whole, tmp_path) -> None:
    (tmp_path / "t.csv").symlink_to(tmp_path / "real.csv")
    sweep(work, ring, **ASKED, output=tmp_path / "t.csv")
    assert (tmp_path / "t.csv").is_symlink()
    assert (tmp_path / "real.csv").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ({"batch": 16}, "another batch or baseline"),
        ({"trials": 3}, "other options"),
        ({"rng": 1}, "other options"),
        ({"variability": mpsim.Variability(link_jitter_s=1e-6)}, "other options"),
        ({"unchecked": True}, "other options"),
        ({"host_speed": 2.0}, "other options"),
        ({"bucket_bytes": 7}, "other options"),
        ({"algorithm": "direct"}, "other options"),
        ({"runtime": "blocking"}, "other options"),
        ({"recompute": "full"}, "other options"),
        ({"devices": 1}, "another grid of plans"),
        ({"schedules": ["gpipe"]}, "another grid of plans"),
        ({"tensor": [1]}, "another grid of plans"),
        ({"microbatches": [2, 4]}, "another grid of plans"),
    ],
)
def test_another_question_is_refused_and_its_file_kept(work, ring, whole, asked, part) -> None:
    before = whole.read_bytes()
    with pytest.raises(mpsim.MpsimError, match=f"answers a sweep of {part}; name another file"):
        sweep(work, ring, **(ASKED | asked), output=whole)
    assert whole.read_bytes() == before


def test_another_workload_topology_or_mpsim_is_refused(work, ring, whole, monkeypatch) -> None:
    for name, pair in {
        "workload": (replace(work, dataset_samples=7), ring),
        "topology": (work, mpsim.parse_topology("ring:2,link=eth_10g,memory=2GiB")),
    }.items():
        with pytest.raises(mpsim.MpsimError, match=f"a sweep of another {name}"):
            sweep(*pair, **ASKED, output=whole)
    monkeypatch.setattr("mpsim.sweeps.question.code_digest", lambda: "0" * 64)
    with pytest.raises(mpsim.MpsimError, match="another mpsim, Python"):
        sweep(work, ring, **ASKED, output=whole)


def test_what_is_no_sweep_is_neither_read_nor_written_over(work, ring, whole, tmp_path) -> None:
    path = tmp_path / "t.csv"
    header = whole.read_text().splitlines()[0]
    for text, message in {
        "my,own\n1,2\n": "no column 'rank': it is not a table that mpsim sweep -o wrote; name another file",
        f"{header.removesuffix(',question')}\n{',' * header.count(',')}\n": "cells as columns",
        whole.read_text().replace(":1\n", ":999\n"): "was edited: '.*:999' is no plan of this sweep",
    }.items():
        path.write_text(text)
        with pytest.raises(mpsim.MpsimError, match=message):
            sweep(work, ring, **ASKED, output=path)
        assert path.read_text() == text
    sweep(work, ring, **ASKED, output=path, resume=False)
    assert path.read_bytes() == whole.read_bytes()


def test_a_file_of_an_older_mpsim_is_refused(work, ring, whole, tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("".join(f"{line.rpartition(',')[0]}\n" for line in whole.read_text().splitlines()))
    assert len(load_sweep(path).rows) == len(load_sweep(whole).rows)
    with pytest.raises(mpsim.MpsimError, match="answers no sweep that can be gone on with; name another file"):
        sweep(work, ring, **ASKED, output=path)


def test_a_file_is_written_by_one_sweep_at_a_time(work, ring, tmp_path) -> None:
    path, said = tmp_path / "t.csv", []

    def second(done: int, total: int) -> None:
        if done == 2:
            context = multiprocessing.get_context("fork")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                said.append(pool.submit(_refused, work, ring, path).result())

    found = sweep(work, ring, **ASKED, output=path, progress=second)
    assert said == [f"{str(path)!r} is being written by another sweep: wait for it, or name another file"]
    assert load_sweep(path) == found


def _refused(work, ring, path) -> str:
    try:
        sweep(work, ring, **ASKED, output=path)
    except mpsim.MpsimError as error:
        return str(error)
    return ""


def test_rows_of_own_schedules_count_by_what_they_are(work, ring, tmp_path, computed) -> None:
    asked = ASKED | {"output": tmp_path / "t.csv", "tensor": [1], "microbatches": [4]}

    def mine(ranks, microbatches):
        return gpipe(ranks, microbatches)

    first = sweep(work, ring, **asked, schedules=[mine])
    count = len(computed)
    assert sweep(work, ring, **asked, schedules=[mine]) == first
    assert len(computed) == count

    def mine(ranks, microbatches):
        return SCHEDULES["1f1b"](ranks, microbatches)

    with pytest.raises(mpsim.MpsimError, match="another grid of plans"):
        sweep(work, ring, **asked, schedules=[mine])


# The cache.


def test_known_rows_are_not_computed_again(work, ring, computed) -> None:
    plain = sweep(work, ring, **ASKED)
    computed.clear()
    assert sweep(work, ring, **ASKED, cache=True) == plain
    count = len(computed)
    assert count == plain.planned
    assert sweep(work, ring, **ASKED, cache=True) == plain
    assert len(computed) == count
    fewer = sweep(work, ring, **ASKED, devices=1, cache=True)  # a part of the grid
    assert fewer == sweep(work, ring, **ASKED, devices=1)
    assert len(computed) == count + fewer.planned
    assert sweep(work, ring, **ASKED, speedups=False, cache=True) != plain
    assert len(computed) == count + fewer.planned


def test_the_cache_and_the_file_agree(work, ring, whole, tmp_path, computed) -> None:
    for _ in range(2):
        path = tmp_path / "t.csv"
        sweep(work, ring, **ASKED, cache=tmp_path / "cache", output=path)
        assert path.read_bytes() == whole.read_bytes()
        path.unlink()
    assert len(computed) == len(load_sweep(whole).rows)


def others(work: mpsim.Workload, ring: mpsim.Topology) -> list[dict]:
    """Return sweeps of which each differs from every other in one thing."""
    layer = work.layers[0]
    one = replace(layer.costs[0], saved_bytes=layer.costs[0].saved_bytes + 1)
    work_too = replace(work, layers=(replace(layer, costs=(one, *layer.costs[1:])), *work.layers[1:]))
    plain = {"workload": work, "topology": ring, "batch": 8}
    changes: list[dict] = [
        {}, {"workload": work_too}, {"topology": mpsim.parse_topology("ring:2,link=eth_25g,memory=1GiB")},
        {"topology": mpsim.parse_topology("ring:2,link=eth_10g,memory=2MiB")}, {"batch": 16}, {"bucket_bytes": 1000},
        {"algorithm": "direct"}, {"runtime": "torch-gloo"}, {"recompute": "full"}, {"trials": 2},
        {"trials": 2, "rng": 1}, {"variability": mpsim.Variability(link_jitter_s=1e-3)},
        {"variability": mpsim.Variability(straggler_probability=0.5, straggler_factor=2.0)},
        {"baseline": replace(mpsim.simulate(work, ring, mpsim.Plan(batch=8, microbatches=4)), step_s=1.0)},
    ]  # fmt: skip
    return [plain | change for change in changes]


def test_no_hit_is_wrong(work, ring, tmp_path) -> None:
    """All share one cache, one after another and again in another order: each answers as it does alone."""
    every = others(work, ring)
    alone = [sweep(**one, processes=1) for one in every]
    for order in (range(len(every)), random.Random(1).sample(range(len(every)), len(every))):
        for i in order:
            assert sweep(**every[i], processes=1, cache=tmp_path) == alone[i]


def test_another_mpsim_knows_nothing(work, ring, tmp_path, computed, monkeypatch) -> None:
    found = sweep(work, ring, **ASKED, cache=tmp_path)
    monkeypatch.setattr("mpsim.sweeps.question.code_digest", lambda: "0" * 64)
    sweep(work, ring, **ASKED, cache=tmp_path)
    assert len(computed) == 2 * found.planned


def asking(name: str) -> Question:
    return Question(code=name, workload="w", topology="t", options="o", batch="b", grid="g")


ROW = {"plan": "p", "step_s": 0.1, "n_devices": 3, "fits": True, "caveats": None, "rank": 7}


def test_a_damaged_line_does_not_count(tmp_path) -> None:
    cache = Cache(tmp_path, asking("a"))
    for name in "pqr":
        cache.put(name, dict.fromkeys(cache_columns()) | ROW)
    (path,) = tmp_path.glob("sweeps/*.jsonl")
    whole = path.read_text()
    assert Cache(tmp_path, asking("a")).get("q") == dict.fromkeys(cache_columns()) | ROW | {"rank": None}
    path.write_text(whole.replace('["q"', '["Q"').replace('"r"', '"r"', 1)[:-5])
    again = Cache(tmp_path, asking("a"))
    assert [again.get(name) is not None for name in "pqQr"] == [True, False, False, False]
    again.put("r", dict.fromkeys(cache_columns()) | ROW)  # after a line that was left open
    assert Cache(tmp_path, asking("a")).get("r") is not None
    path.write_bytes(b"\xff\x00" + path.read_bytes())
    assert Cache(tmp_path, asking("a")).get("r") is not None


def cache_columns() -> tuple[str, ...]:
    from mpsim.sweeps.model import COLUMNS

    return COLUMNS


def test_the_oldest_used_are_dropped(tmp_path) -> None:
    row = dict.fromkeys(cache_columns()) | ROW
    for i, name in enumerate("abc"):
        cache = Cache(tmp_path, asking(name))
        cache.put("p", row)
        os.utime(cache._path, (i, i))
    size = cache._path.stat().st_size
    Cache(tmp_path, asking("a"))  # is used
    last = Cache(tmp_path, asking("d"), most_bytes=3 * size + 10)
    last.put("p", row)
    last.close()
    assert [Cache(tmp_path, asking(name)).get("p") is not None for name in "abcd"] == [True, False, True, True]


def _fill_cache(folder: Path, number: int) -> None:
    cache = Cache(folder, asking("a"))
    for i in range(50):
        cache.put(f"{number} {i}", dict.fromkeys(cache_columns()) | ROW | {"n_devices": 100 * number + i})


def test_processes_may_write_at_once(tmp_path) -> None:
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(_fill_cache, [tmp_path] * 4, range(4)))
    found = Cache(tmp_path, asking("a"))
    assert [found.get(f"{n} {i}")["n_devices"] for n in range(4) for i in range(50)] == [
        100 * n + i for n in range(4) for i in range(50)
    ]


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self").exists(), reason="no folder that nobody can write to")
def test_a_folder_that_cannot_be_is_an_empty_cache(work, ring, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", Path("/proc/self/nowhere")):
        assert sweep(work, ring, **ASKED, cache=folder) == sweep(work, ring, **ASKED)


def test_the_folder_is_the_users(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mpsim"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mpsim"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8,
)  # fmt: skip


@given(VALUES, VALUES)
def test_digests_are_equal_where_values_are(a, b) -> None:
    same = json.dumps(a) == json.dumps(b)
    assert (digest(a) == digest(b)) == same
    assert digest(json.loads(json.dumps(a))) == digest(a)


@given(st.lists(st.lists(st.text(alphabet='a"\n,'), min_size=2, max_size=2), max_size=5), st.integers(0))
def test_a_record_is_whole_or_not_there(rows, cut) -> None:
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    data = text.getvalue().encode()
    part = data[: cut % (len(data) + 1)]
    kept = part[: whole_records(part)].decode()
    found = list(csv.reader(io.StringIO(kept, newline="")))
    assert found == rows[: len(found)]


# Executors.


def like_gpipe(ranks: int, microbatches: int) -> list:
    return gpipe(ranks, microbatches)


def _loaded(name: str) -> bool:
    import sys

    return name in sys.modules


def check_executor(executor, work, ring, monkeypatch) -> None:
    """Rows are those of this process, what is registered here is known there, and nobody loads torch."""
    monkeypatch.setitem(SCHEDULES, "mine", like_gpipe)
    plain = sweep(work, ring, **ASKED)
    assert sweep(work, ring, **ASKED, executor=executor) == plain
    assert "mine" in {row["schedule"] for row in plain.rows}


def test_any_executor_computes_the_rows(work, ring, monkeypatch) -> None:
    with ThreadPoolExecutor(2) as threads:
        check_executor(threads, work, ring, monkeypatch)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as processes:
        check_executor(processes, work, ring, monkeypatch)


@pytest.mark.slow
def test_workers_of_a_fresh_interpreter_load_no_torch(work, ring) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        assert sweep(work, ring, **ASKED, executor=processes) == sweep(work, ring, **ASKED)
        assert not processes.submit(_loaded, "torch").result()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "library"), [("dask", "distributed"), ("ray", "ray")])
def test_a_cluster_of_this_machine_computes_the_rows(work, ring, name, library, monkeypatch) -> None:
    pytest.importorskip(library)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(__import__("sys").path))
    with cluster_executor(name, processes=1) as executor:
        check_executor(executor, work, ring, monkeypatch)
        assert not executor.submit(_loaded, "torch").result()


def test_a_worker_of_another_mpsim_is_refused(work, ring, monkeypatch) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        pool.submit(_become_another).result()
        with pytest.raises(mpsim.MpsimError, match="a worker has another mpsim"):
            sweep(work, ring, **ASKED, executor=pool)


def _become_another() -> None:
    from mpsim.sweeps import row

    row.code_digest = lambda: "0" * 64


def test_a_cluster_that_is_not_there_is_refused() -> None:
    with pytest.raises(mpsim.MpsimError, match="unknown executor 'dusk'; did you mean 'dask'"):
        cluster_executor("dusk")
