"""``--split``: points of a trace at which ranks share layers otherwise than by tp alone."""

import json

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


def test_sequences_are_traced_shown_and_simulated(mpsim) -> None:
    sizes = [word for size in ("n_layer=1", "hidden=32", "n_head=4", "n_kv_head=2", "ffn=64", "vocab=48", "seq=16")
             for word in ("--set", size)]  # fmt: skip
    splits = ("--split", "tp=2,sequence", "--split", "tp=2,cp=2,sequence", "--context", "ring", "--regather")
    made = mpsim("trace", "llama", *sizes, *splits, "--batch", "2", "--analytical", "H100-SXM5-80GB", "-o", "l.json")
    assert made.exit_code == 0, made.stderr
    assert "ranks share attention by ring" in made.stdout
    assert "one of the ranks of tp=2 cp=2 sequence" in mpsim("show", "l.json", "--split", "tp=2,cp=2,sequence").stdout
    shown = json.loads(mpsim("show", "l.json", "--split", "tp=2,cp=2,sequence", "--json").stdout)
    assert (shown["tp"], shown["split"]) == (2, "tp=2 cp=2 sequence")
    for plan in (("--tp", "2", "--sequence"), ("--tp", "2", "--cp", "2", "--sequence")):
        result = mpsim("simulate", "l.json", "fully_connected:4,link=1GB/s@1us", *plan, "--batch", "2")
        assert result.exit_code == 0, result.stderr
    missing = mpsim("simulate", "l.json", "fully_connected:4,link=1GB/s@1us", "--cp", "2", "--batch", "2")
    assert missing.exit_code == 2
    assert "trace again with" in missing.stderr
    assert "--split tp=1,cp=2" in missing.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--split", "cp=3"), "a sequence of 16 does not divide by 3 context-parallel ranks: 15 does"),
        (("--split", "cp=2", "--context", "rings"), "unknown context parallelism 'rings'; did you mean 'ring'?"),
        (("--split", "cp=8", "--context", "ulysses"), "4 attention heads do not divide by 8 context-parallel ranks"),
        (("--split", "cp=16"), "a sequence of 16 leaves 16 context-parallel ranks a token each: give 32 or more"),
        (("--split", "cp=2", "--regather"), "regather is of ranks that share a sequence"),
        (("--context", "rings"), "unknown context parallelism 'rings'; did you mean 'ring'?"),
        (("--tensor", "1,2", "--context", "ring"), "context=ring is of ranks that share sequences: trace a split such"),
        (("--split", "cp=2", "--imbalance", "2"), "imbalance=2 is of ranks that share experts: trace a split such as"),
    ],
)
def test_sequences_that_cannot_be_shared_are_refused(mpsim, words, message) -> None:
    sizes = [word for size in ("n_layer=1", "hidden=32", "n_head=4", "n_kv_head=2", "ffn=64", "vocab=48", "seq=16")
             for word in ("--set", size)]  # fmt: skip
    result = mpsim("trace", "llama", *sizes, *words, "--batch", "2")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        (
            "mixtral",
            ("n_layer=1",),
            "imbalance is 3: of ep=2 ranks the busiest gets all tokens at 2 times the mean: give no more",
        ),
        ("dlrm", ("rows=4,4",), "imbalance=2 is of tokens that choose experts, DLRM has tables alone"),
    ],
)
def test_an_imbalance_that_no_ranks_can_have_is_refused(mpsim, model, words, message) -> None:
    sizes = [word for size in words for word in ("--set", size)]
    more = ("--imbalance", "3" if model == "mixtral" else "2", "--analytical", "H100-SXM5-80GB")
    result = mpsim("trace", model, *sizes, "--batch", "2", "--split", "ep=2", *more)
    assert result.exit_code == 2
    assert message in result.stderr
