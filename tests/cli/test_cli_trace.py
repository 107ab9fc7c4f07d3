"""``mpsim trace`` on models small enough for a test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_inputs import RING

import mpsim as package

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("timed_once")

SMALL = ("--set", "widths=8,4,2", "--repeats", "2", "--warmup", "1", "--device", "cpu")


def test_trace_writes_what_show_and_simulate_read(mpsim) -> None:
    result = mpsim("trace", "mnist-mlp", *SMALL, "--batch", "2,4", "--tensor", "1,2", "-o", "w.json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "wrote w.json\n"
    assert "sum of layers / whole step" in result.stdout
    work = package.load_workload("w.json")
    assert {(c.microbatch, c.tensor_parallel) for c in work.layers[0].costs} == {(2, 1), (4, 1), (2, 2), (4, 2)}
    assert mpsim("show", "w.json").stdout == result.stdout
    assert (
        mpsim(
            "simulate", "w.json", RING, "--pp", "2", "--tp", "2", "--batch", "8", "--microbatches", "2", "--unchecked"
        ).exit_code
        == 0
    )


def test_the_default_name_has_model_and_device(mpsim) -> None:
    result = mpsim("trace", "mnist-mlp", *SMALL, "--batch", "2", "--json")
    assert result.exit_code == 0, result.stderr
    (path,) = Path().iterdir()
    assert path.name == "mnist-mlp-widths=8,4,2.cpu.json"
    assert result.stderr == f"wrote {path}\n"
    found = json.loads(result.stdout)
    assert [layer["gradient_bytes"] for layer in found["layers"]] == [4 * (8 * 4 + 4), 4 * (4 * 2 + 2)]
    assert found["input_bytes"] == 2 * 8 * 4


def test_a_roofline_needs_no_device(mpsim) -> None:
    words = ("--set", "widths=8,4,2", "--batch", "2", "--analytical", "H100-SXM5-80GB", "-o", "w.json")
    assert mpsim("trace", "mnist-mlp", *words).exit_code == 0
    found = json.loads(mpsim("show", "w.json", "--json").stdout)
    assert found["device"] == "H100-SXM5-80GB"
    assert {layer["fidelity"] for layer in found["layers"]} == {"analytical"}


FACTORIES = """
import torch

def good(batch):
    return torch.nn.Linear(8, 2), torch.ones(batch, 8)

def raises(batch):
    raise ValueError("no such thing\\nand more")

def misshapen(batch):
    return torch.nn.Linear(8, 2), torch.ones(batch, 9)

def nothing(batch):
    return None

class Branches(torch.nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x

def branches(batch):
    return Branches(), torch.ones(batch, 8)
"""


FAILING = {
    "raises": "no such thing",
    "misshapen": "cannot be multiplied (2x9 and 8x2), in the model (Linear)",
    "nothing": "returned NoneType",
    "branches": "Branches has none: there is none to place",
    "goood": "did you mean 'good'?",
}
ONE_AFTER_ANOTHER = """
import sys
from mpsim.cli import main

for factory in sys.argv[1:]:
    sys.argv[1:] = ["trace", f"own_models:{factory}", "--batch", "2", "-o", "w.json"]
    try:
        main()
    except SystemExit as end:
        print("ended with", end.code, file=sys.stderr)
"""


@pytest.mark.slow
def test_ones_own_model_that_fails_is_one_line(mpsim) -> None:
    """PyTorch may log and print pages of a failure; in a process of its own nothing catches them for us."""
    Path("own_models.py").write_text(FACTORIES)
    words = [sys.executable, "-c", ONE_AFTER_ANOTHER, *FAILING]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    assert lines[1::2] == ["ended with 2"] * len(FAILING)
    for line, message in zip(lines[::2], FAILING.values(), strict=True):
        assert line.startswith("mpsim: error: ")
        assert message in line
    assert not Path("w.json").exists()


TINY = {
    "model_type": "gpt2",
    "n_embd": 8,
    "n_layer": 3,
    "n_head": 2,
    "vocab_size": 20,
    "n_positions": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def test_a_configuration_of_transformers_is_traced_by_its_folder(mpsim) -> None:
    Path("Tiny-GPT").mkdir()
    Path("Tiny-GPT/config.json").write_text(json.dumps(TINY))
    result = mpsim(
        "trace", "hf:Tiny-GPT", "--set", "num_hidden_layers=1", "--batch", "2", "--repeats", "1", "--device", "cpu"
    )
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "wrote Tiny-GPT-num_hidden_layers=1.cpu.json\n"
    assert package.load_workload("Tiny-GPT-num_hidden_layers=1.cpu.json").name == "Tiny-GPT[num_hidden_layers=1]"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("hf:meta-llama/Llama-3-8B",), "nothing is fetched from the hub: download the model's config.json"),
        (("mnist-mlp", "--precision", "bf61"), "unknown precision 'bf61'; did you mean 'bf16'?"),
        ((), "package.module:factory or hf:PATH"),
    ],
)
def test_what_cannot_be_traced_is_one_line(mpsim, words, message) -> None:
    result = mpsim("trace", *words)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert message in line


def test_without_pytorch_it_says_what_to_install(mpsim, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for words in ((), ("--analytical", "H100-SXM5-80GB")):
        result = mpsim("trace", "mnist-mlp", *words)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
        assert "pip install 'mpsim[trace]'" in result.stderr
