"""The examples of every --help run as they are printed, in a folder with the files that they name."""

import json
import os
import shlex
import shutil
from contextlib import chdir
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from test_cli_calibrate import LOG
from test_kineto import Trace, step

from mpsim.cli import cli
from mpsim.cli.program import COMMANDS
from mpsim.validate.published.replaying import COMMITTED as PUBLISHED
from mpsim.validate.steps_file import COMMITTED

ROOT = Path(__file__).parents[2]
# They run models or real processes, or sweep for half a minute.
SLOW = ("", "calibrate", "emulate", "sweep", "trace", "validate collectives", "validate emulated")
# What is too long for a test; --quick `.ci/run` runs by itself, where nothing else is at work, and prints.
TOO_LONG = (
    "mpsim validate emulated -o validation.csv --figure validation.png", "mpsim validate emulated --quick",
    "mpsim validate published", "mpsim sweep seq-2048.json seq-4096.json dgx_h100 --batch 8,16,32 -o llama.csv",
    "mpsim best llama3-70b dgx_h100:8 --tokens 4M --seq 8192 --price '2.5 USD/h' --train-tokens 15T",
)  # fmt: skip


def commands(group=cli, path=""):
    """Return each command by its path, those of groups too."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


def examples(command):
    """Return the commands of mpsim that stand in a help text."""
    lines = (line.strip() for line in (command.help or "").splitlines())
    return [line for line in lines if line.startswith("mpsim ")]


FOUND = {path: examples(command) for path, command in [("", cli), *commands()]}
MARKED = [pytest.param(path, marks=[pytest.mark.slow] * (path in SLOW), id=path or "mpsim") for path in FOUND]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder in which everything that the examples read has been made, once for all of them."""
    folder = tmp_path_factory.mktemp("examples")
    with chdir(folder):
        _make(folder, lambda *words: CliRunner().invoke(cli, list(words)))
    return folder


@pytest.fixture
def folder(mpsim, tmp_path, made):
    """A copy of it, for a test of its own."""
    shutil.copytree(made, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path


def _make(folder, mpsim):
    (folder / "workloads").symlink_to(ROOT / "workloads")
    shutil.copy(ROOT / "workloads" / "mnist-mlp.cpu.json", "mlp.json")
    shutil.copy(ROOT / "workloads" / "llama.cpu.json", "llama.json")
    flags = "--pipeline-model-parallel-size 2 --micro-batch-size 1 --global-batch-size 64"
    (folder / "flags.sh").write_text(f"{flags} --pipeline-model-parallel-layout 'Et*3|t*3,L'")
    shutil.copy(COMMITTED, "mine.json")
    (folder / "mine").mkdir()
    shutil.copy(PUBLISHED / "megatron_seqpar2022_layer.csv", "mine")
    shutil.copy(ROOT / "docs" / "data" / "validation-real.csv", "validation.csv")
    (folder / "all_reduce_perf.log").write_text(LOG)
    net = "topology: [ Ring ]\nnpus_count: [ 4 ]\nbandwidth: [ 50 ]\nlatency: [ 500 ]\n"
    (folder / "network.yml").write_text(net)
    profile = Trace()
    step(profile, 1000)
    profile.save(folder / "profile.json")
    (folder / "Llama-3-8B").mkdir()
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 256}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 32}
    (folder / "Llama-3-8B" / "config.json").write_text(json.dumps(config))
    pair = "--pp 4 --microbatches 8 -o"
    run(mpsim, f"mpsim simulate mlp.json ring:4,link=eth_10g {pair} gpipe.json --schedule gpipe --perfetto trace.json")
    for made in ("1f1b.json", "result.json"):
        run(mpsim, f"mpsim simulate mlp.json ring:4,link=eth_10g {pair} {made} --save-plan plan.json")
    run(mpsim, f"mpsim export mlp.json ring:4,link=eth_10g {pair} step")
    run(mpsim, "mpsim sweep mlp.json switch:2,link=eth_10g --batch 8192 --processes 1 -o sweep.csv")
    for device, link in (("h100", "eth_10g"), ("a100", "eth_100g")):
        run(mpsim, f"mpsim sweep mlp.json switch:2,link={link} --batch 8192 --processes 1 -o {device}.csv")


def run(mpsim, line):
    done = mpsim(*shlex.split(line)[1:])
    assert done.exit_code == 0, f"{line}\n{done.output}"


def test_every_command_but_the_demo_has_examples():
    assert {path for path in COMMANDS if path != "validate" and not FOUND[path]} == {"demo"}
    assert all(FOUND[path] for path in FOUND if path.startswith("validate "))


@pytest.mark.parametrize("path", MARKED)
def test_examples(mpsim, folder, path):
    for line in FOUND[path]:
        if line not in TOO_LONG and ("namespaces" not in line or os.geteuid() == 0):
            run(mpsim, line)
        if line.endswith("-o mlp.json"):
            # Of what was traced on a busy machine nothing may be predicted: the next line takes the stored trace.
            shutil.copy(ROOT / "workloads" / "mnist-mlp.cpu.json", "mlp.json")
