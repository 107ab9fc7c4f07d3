"""``mpsim best --batch B,B``: each batch by itself, and what more devices bring to all."""

import json

import pytest
from cases import chained, layer
from click.testing import CliRunner

from mpsim.cli import cli
from mpsim.sweeps.file import load_sweep
from mpsim.workload.file import save_workload


@pytest.fixture
def best(tmp_path, monkeypatch):
    """A function that runs the command on two devices, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    layers = [layer(name, parameters={name: 300}, saved_bytes=100) for name in "abc"]
    save_workload("w.json", chained(layers, 40))
    words = ("best", "w.json", "chain:2,link=1kB/s@1ms,memory=3kB", "--processes", "1", "--top", "3")
    return lambda *more: CliRunner().invoke(cli, [*words, *map(str, more)])


def test_each_batch_has_the_rows_that_it_has_alone(best, tmp_path) -> None:
    alone = [json.loads(best("--batch", batch, "--json", "-o", f"a{batch}.csv").stdout) for batch in (4, 8)]
    result = best("--batch", "8,4,8", "--json", "-o", "b.csv")
    assert result.exit_code == 0, result.output
    several = json.loads(result.stdout)
    assert several["batches"] == alone
    assert [(row["global_batch"], row["n_devices"]) for row in several["scaling"]] == [(4, 1), (4, 2), (8, 1), (8, 2)]
    found = load_sweep("b.csv")
    assert [len(group.ranked) for group in found.groups] == [len(one["rows"]) for one in alone]
    assert sorted(path.name for path in tmp_path.glob("b.*")) == ["b.csv"]


def test_what_more_devices_bring_comes_last(best) -> None:
    told = best("--batch", "4,8").output
    assert told.index("| batch 4") < told.index("| batch 8") < told.index("efficiency")
    assert "batch 4: " in best("--batch", "4,8", "--dry-run").output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--batch", "0,8"), "--batch 0: no plan can be: it is no number of samples"),
        (("--batch", "3,8", "--dp", 2), "--batch 3: no plan can be: a batch of 3 over dp=2"),
        (("--batch", "4,8", "--plan", "p.json"), "--plan is of one batch, --batch has 2"),
    ],
)
def test_bad_batches_get_a_line_before_anything_is_simulated(best, words, said) -> None:
    result = best(*words)
    assert result.exit_code == 2
    assert said in result.output
    assert result.output.count("\n") == 1


def test_a_batch_of_which_no_plan_fits_is_told_beside_the_others(best) -> None:
    """A replica has a micro-batch in each of its stages: what two keep is too much, what one keeps is not."""
    one = ("--devices", 2, "--pp", 2, "--dp", 1, "--zero", 0, "--recompute", "none", "--schedules", "gpipe")
    result = best("--batch", "1,64", *one)
    assert result.exit_code == 0, result.output
    assert "batch 64: none of 1 plans fits; the nearest" in result.output
    assert "it fits with --" in result.output
