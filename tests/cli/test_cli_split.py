"""``--split``: points of a trace at which ranks share layers otherwise than by tp alone."""

import pytest

import mpsim as package
from mpsim.workload.split import WHOLE, Split

pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("timed_once")

SMALL = ("--set", "widths=8,4,2", "--repeats", "2", "--warmup", "1", "--device", "cpu")


def test_a_split_of_tp_alone_is_a_tensor_parallel_size(mpsim) -> None:
    result = mpsim("trace", "mnist-mlp", *SMALL, "--batch", "2", "--tensor", "1,2", "--split", "tp=2", "-o", "w.json")
    assert result.exit_code == 0, result.stderr
    costs = package.load_workload("w.json").layers[0].costs
    assert [cost.split for cost in costs] == [WHOLE, Split(tp=2)]
    assert mpsim("show", "w.json", "--split", "tp=2").stdout == mpsim("show", "w.json", "--tensor", "2").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trace", "mnist-mlp", "--split", "tp=2,seq"), "split is 'tp=2,seq': write a number of ranks, or such as"),
        (("trace", "mnist-mlp", "--split", "sequence"), "give tp 2 or more"),
        (("show", "mnist-mlp", "--split", "tp=2"), "--microbatch, --tensor and --split choose a point of a workload"),
    ],
)
def test_what_is_no_split_is_refused(mpsim, words, message) -> None:
    result = mpsim(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_point_that_was_not_traced_names_the_option_that_traces_it(mpsim) -> None:
    mpsim("trace", "mnist-mlp", *SMALL, "--batch", "2", "-o", "w.json")
    missing = mpsim("show", "w.json", "--split", "tp=2,cp=2")
    assert missing.exit_code == 2
    assert "trace again with --split tp=2,cp=2" in missing.stderr
    twice = mpsim("show", "w.json", "--split", "tp=2", "--tensor", "2")
    assert "--tensor 2 is --split tp=2, --split tp=2 was given too: leave one out" in twice.stderr
