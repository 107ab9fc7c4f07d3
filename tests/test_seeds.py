"""The numbers that mpsim started from, taken from the real model."""

import json
import math

import pytest
from click.testing import CliRunner

from mpsim import simulate_collectives
from mpsim.cli import cli
from mpsim.topology.spec import parse_topology
from mpsim.workload.file import load_workload
from mpsim.workload.show import fed_bytes, output_bytes, workload_to_dict

pytest.importorskip("torch")
BATCH, EPOCH, DEVICES = 8192, 60_000, 4


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A trace of the perceptron of the MNIST tutorials at its default batch, made by the command."""
    path = tmp_path_factory.mktemp("seeds") / "mlp.json"
    run = CliRunner().invoke(cli, ["trace", "mnist-mlp", "--repeats", "1", "--warmup", "1", "-o", str(path)])
    assert run.exit_code == 0, run.output
    return path


@pytest.fixture(scope="module")
def mlp(path):
    return load_workload(path)


def test_gradients_of_each_layer(mlp):
    found = workload_to_dict(mlp)
    assert [layer["gradient_bytes"] for layer in found["layers"]] == [803_840, 131_584, 33_024, 2_600]
    assert found["totals"]["gradient_bytes"] == 971_048


def test_backward_completes_the_last_layer_first(mlp):
    sizes = [sum(gradient.bytes for gradient in layer.shard().gradients) for layer in reversed(mlp.layers)]
    assert sizes == [2_600, 33_024, 131_584, 803_840]


def test_input_and_labels_over_four_devices(mlp):
    fed = fed_bytes(mlp, "input") + fed_bytes(mlp, "target")
    assert fed == BATCH * (784 * 4 + 8)
    assert fed / DEVICES == 6_438_912


def test_outputs_of_each_layer(mlp):
    assert [output_bytes(mlp, layer.name) for layer in mlp.layers] == [BATCH * 4 * n for n in (256, 128, 64, 10)]


def test_eight_trials_an_epoch(path):
    arguments = ["simulate", str(path), "ring:4,link=eth_10g", "--strategy", "naive", "--devices", "4"]
    run = CliRunner().invoke(cli, [*arguments, "--batch", str(BATCH), "--epochs", "1", "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["trials"] == math.ceil(EPOCH / BATCH) == 8


def test_the_workshop_form():
    """Ring all-reduces of the gradients, one after another, eight times with nothing random."""
    sizes = [2_600, 33_024, 131_584, 803_840]
    latency, bandwidth = 2.0**-16, 2.0**27
    topology = parse_topology(f"ring:4,bandwidth={2**27}B/s,latency={latency * 1e9:.17g}ns")
    result = simulate_collectives(sizes, topology, trials=8)
    expected = sum(2 * 3 * latency + 2 * 3 * size / 4 / bandwidth for size in sizes)
    assert result.step_s == pytest.approx(expected, rel=1e-12)
    assert (result.trials, len(result.trial_step_s), result.deterministic) == (8, 1, True)
