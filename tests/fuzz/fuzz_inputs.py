"""Command lines and files as a stranger would give them: every command, option, kind of file and kind of text."""

import inspect
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import click
from fuzz_mutations import HOSTILE, NUMBERS, damaged
from hypothesis import strategies as st

from mpsim.cli import cli
from mpsim.cli.program import COMMANDS
from mpsim.collectives.mapping import algorithm_names
from mpsim.plan.runtimes import RUNTIMES
from mpsim.plan.schedules import SCHEDULES
from mpsim.topology.builders import BUILDERS
from mpsim.topology.presets import PRESETS

__all__ = ["Input", "inputs"]


@dataclass(frozen=True)
class Input:
    """A command line, and the files that stand where valid ones were."""

    words: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)


WORKLOADS = ["small.json", "hand.json"]
TOPOLOGIES = ["box.json", "costs.json", "switch:2,link=nvlink4", "ring:4,link=eth_10g,memory=1GiB"]
LOGS = ["nccl.log", "nccl.csv", "nccl.json", "real.json"]
FOREIGN = [
    ["step.0.et", "step.1.et"],
    ["alien.0.et"],
    ["one.0.et"],
    ["network.yml"],
    ["kineto.json"],
    ["perfetto.json"],
]
OURS = ["small.json", "hand.json", "box.json", "costs.json", "plan.json", "result.json", "sweep.csv", "sweep.parquet"]
PUBLISHED = ["simumax_b200", "torchtitan", "zero_bubble_throughput", "torchgpipe_speed", "sailor_measured"]

# What an option of this name may well be given.
PLAUSIBLE: dict[str, list[str]] = {
    "strategy": ["naive", "gpipe", "1f1b", "tensor", "data"],
    "schedule": [*SCHEDULES, "rows.csv", "0F0 0B0"],
    "schedules": [*SCHEDULES, "gpipe,1f1b"],
    "algorithm": [*algorithm_names("all_reduce"), "auto"],
    "runtime": [*RUNTIMES],
    "launch": ["eager", "graphs"],
    "recompute": ["full", "selective", "stages", "except-last", "*", "fc*,1", "0"],
    "offload": ["all", "fc*"],
    "fsdp_units": ["blocks", "layers", "model", "fc*"],
    "reshard": ["none", "all", "root"],
    "gather_dtype": ["bfloat16", "float32"],
    "reduce_dtype": ["bfloat16", "float32"],
    "stages": ["1", "b,c", "fc2", "2", "1,2,3"],
    "bucket": ["1 KiB", "25 MiB", "inf B", "1e308 B", "1 bit"],
    "place": ["0,1", "1,0", "0,0", "3,2,1,0"],
    "plan": ["plan.json"],
    "against": ["plan.json", "--dp 2", "--pp 2 --microbatches 2", "--plan plan.json", "--dp", "x --pp"],
    "costs": ["H100-SXM5-80GB=hand.json", "x=small.json"],
    "rescale": ["roofline"],
    "baseline": ["one", "naive", "none", "result.json"],
    "collectives": ["1024", "1024,1 MiB", "1e308 B"],
    "collective": ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"],
    "kind": ["timeline", "schedule", "topology", "sweep", "memory", "memory-by-holder", "scaling", "cdf"],
    "split": ["tp=2", "tp=2,sequence", "cp=2,ep=2", "tp=0"],
    "jitter": ["10 us", "1e308 s", "inf", "1 h"],
    "step": ["1 ms", "1e308 s"],
    "layer": ["fc1=1ms", "a=1 us"],
    "topology": TOPOLOGIES,
    "compute": ["hand.json", "replay", "real"],
    "groups": ["step.comm_groups.json"],
    "depth": ["auto", "1", "9" * 5000],
    "size": ["n_layer=2", "n_layer=1000000000", "size=7B", "widths=784,10"],
    "model": ["mnist-mlp", "mymod:make"],
    "precision": ["bf16-mixed", "float32"],
    "analytical": ["H100-SXM5-80GB"],
    "file": ["simumax_b200"],
    "workloads": [".", "folder"],
    "fabric": ["host"],
}
_OUTPUTS = ["out/a.json", "out/a.png", "out/a.csv", "out/a", "out/a.svg", "link.json", "folder", "/dev/null", "fifo",
            "nowhere/a.json", "-", "/dev/stdout", "small.json"]  # fmt: skip
MORE = {
    "nodes": ["per_node=2", "inside=nvlink4", "between=ib_ndr"],
    "dragonfly": ["routers=2", "per_router=2"],
    "leaf_spine": ["per_leaf=2", "spines=2"],
    "product": ["kinds=ring+switch", "links=nvlink4+ib_ndr"],
}
SEVERAL = ("mesh", "torus", "product")
_LINKS = ["nvlink4", "eth_10g", "ib_ndr", "50GB/s@2us", "1e308B/s@1e308s", "inf@0", "1e-300 B/s@0", "5", "x"]
_DEVICES = ["H100-SXM5-80GB", "A100-SXM4-40GB", "A100-SXM4-40GB*2+H100-SXM5-80GB*2", "x"]
_SIZES = ["2", "4", "8", "2x2", "4x4", "1", "0", "-1", "2x0", "1000000", "1000000000", "9" * 5000, "1e9", "2x2x2", ""]


def _spec(rng: random.Random) -> str:
    """Return a topology as text."""
    if rng.random() < 0.2:
        return f"{rng.choice(list(PRESETS))}{rng.choice(('', ':1', ':2', ':2x2', ':1,costs=none', ':999999', ':x'))}"
    name = rng.choice([*BUILDERS, *BUILDERS, "rnig"])
    sizes = rng.choice(_SIZES[:4] if rng.random() < 0.7 else _SIZES)
    parts = [f"link={rng.choice(_LINKS[:4] if rng.random() < 0.7 else _LINKS)}"]
    more = {
        "memory": ["1GiB", "80 GB", "1e308B", "-1B", "0"],
        "speed": ["2", "1*2+2*2", "nan", "1e308", "0", "1e-320"],
        "overlap": ["1.2", "0", "nan", "1e308"],
        "device": _DEVICES,
        "type": ["x", "a*2+b*2", "\u202e"],
        "costs": ["none", "published"],
        "offload": ["25GB/s@1us", "0"],
        "latency": ["1us", "1e308s", "inf", "nan"],
        "bandwidth": ["50GB/s", "0", "inf", "1e308 GB/s"],
        "per_node": ["2", "4", "0", "999999999"],
        "inside": _LINKS,
        "between": _LINKS,
        "rails": ["1", "2", "0", "9" * 400],
        rng.choice(HOSTILE): HOSTILE,
    }
    if rng.random() < 0.8 and name in BUILDERS:
        sizes = sizes.partition("x")[0] if name not in SEVERAL and rng.random() < 0.9 else sizes
        taken = inspect.signature(BUILDERS[name]).parameters
        general = ("memory", "speed", "overlap", "device", "type", "costs", "offload")
        more = {key: values for key, values in more.items() if key in taken or key in general}
    for key in rng.sample(list(more), rng.choice((0, 0, 0, 1, 1, 2, 3))):
        parts.append(f"{key}={rng.choice(more[key])}")
    if name in ("nodes", "product"):
        parts.pop(0)
    parts += MORE.get(name, [])
    text = f"{name}:{','.join([sizes, *parts])}"
    if rng.random() < 0.15:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice([*HOSTILE, *NUMBERS]) + text[at + rng.choice((0, 1, 3)) :]
    return text


def _topology(rng: random.Random) -> str:
    return _spec(rng) if rng.random() < 0.25 else rng.choice(TOPOLOGIES)


_Base = Callable[[random.Random], list[str]]
# The words that each command begins with; options come behind.
BASES: dict[str, list[_Base]] = {
    "show": [
        lambda rng: [rng.choice(OURS)],
        lambda rng: [rng.choice(OURS)],
        lambda rng: [_spec(rng)],
        lambda rng: [_spec(rng)],
        lambda rng: [rng.choice(("catalog", "presets", "gpt2", "H100-SXM5-80GB", *HOSTILE))],
    ],
    "simulate": [
        lambda rng: [rng.choice(WORKLOADS), _topology(rng)],
        lambda rng: [rng.choice(WORKLOADS), _topology(rng), "--pp", "2", "--microbatches", "2"],
        lambda rng: ["small.json", "box.json", "--plan", "plan.json"],
        lambda rng: ["small.json", "box.json", "--schedule", "rows.csv"],
        lambda rng: [_topology(rng), "--collectives", "1024,1 MiB"],
    ],
    "explain": [
        lambda rng: [rng.choice(WORKLOADS), _topology(rng), "--no-what-ifs"],
        lambda rng: ["small.json", "box.json", "--pp", "2", "--microbatches", "2", "--against", "--dp 2"],
    ],
    "sweep": [lambda rng: [rng.choice(WORKLOADS), _topology(rng), "--batch", rng.choice(("2", "8")), "--processes", "1",
                           "--microbatches", "2", "--schedules", "gpipe"]],
    "plot": [
        lambda rng: [rng.choice(("result.json", "sweep.csv", "box.json", "hand.json")), "-o", "out/a.png"],
        lambda rng: ["--schedule", rng.choice([*SCHEDULES, "rows.csv"]), "--stages", "2", "--microbatches", "3",
                     "-o", "out/a.svg"],
    ],
    "topology": [lambda rng: [_spec(rng), "-o", "out/a.json"]],
    "calibrate": [
        lambda rng: [rng.choice(LOGS), "--topology", _topology(rng), "-o", "out/a.json"],
        lambda rng: ["--compute", "rough.json", "--topology", "t4.json", "--layer", "a=1ms", "-o", "out/a.json"],
        lambda rng: ["--compute", "rough.json", "--topology", "t4.json", "--step", "1 ms", "--plan", "plan.json",
                     "-o", "out/a.json"],
    ],
    "import": [
        lambda rng: ["step.0.et", "step.1.et", "--topology", _topology(rng)],
        lambda rng: [*rng.choice(FOREIGN), "--topology", "box.json"],
        lambda rng: ["kineto.json", "--microbatch", "8"],
        lambda rng: ["network.yml"],
        lambda rng: ["perfetto.json"],
        lambda rng: rng.choice(FOREIGN),
    ],
    "export": [lambda rng: ["chakra", rng.choice(WORKLOADS), _topology(rng), "-o", "out/p"]],
    "jobs": [lambda rng: [_topology(rng), "small.json=plan.json", *(["hand.json=plan.json"] * rng.choice((0, 1)))]],
    "validate": [
        lambda rng: ["steps", "steps.json"],
        lambda rng: ["published", "published", "--file", rng.choice(PUBLISHED)],
        lambda rng: ["emulated", "--workloads", "."],
        lambda rng: ["collectives"],
    ],
    "emulate": [
        lambda rng: [rng.choice(WORKLOADS), _topology(rng)],
        lambda rng: [rng.choice(WORKLOADS), "box.json", "--compute", "real", "--pp", "2"],
        lambda rng: ["--collectives", "1024", "--devices", "2"],
    ],
    "trace": [lambda rng: ["mnist-mlp"], lambda rng: ["hf:config.json"], lambda rng: ["gpt2"]],
}  # fmt: skip
# How often, of the dear ones less: a picture is a tenth of a second.
_WEIGHTS = {"show": 5, "simulate": 6, "import": 5, "calibrate": 3, "topology": 3, "validate": 2, "plot": 1}


def _command(name: str, words: list[str]) -> click.Command:
    with cli.make_context("mpsim", [name], resilient_parsing=True) as context:
        found = cli.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            sub = found.get_command(context, words[0])
            assert sub is not None
            return sub
        return found


def _option(option: click.Option, rng: random.Random) -> list[str]:
    name = max(option.opts, key=len)
    if option.secondary_opts:
        return option.secondary_opts  # a bar is not text
    if option.is_flag:
        return [name]
    if name in ("--output", "--save-plan", "--perfetto", "--plot", "--figure", "--links"):
        fitting = {"--plot": "out/b.png", "--figure": "out/b.svg", "--save-plan": "out/b.json"}.get(name, "out/b")
        return [name, fitting if rng.random() < 0.5 else rng.choice(_OUTPUTS)]
    known = PLAUSIBLE.get(str(option.name), [])
    if known and rng.random() < 0.75:
        return [name, rng.choice(known)]
    numeric = not isinstance(option.type, click.types.StringParamType)
    few = ["1", "2", "2", "4"]
    return [name, rng.choice(few if numeric and rng.random() < 0.6 else NUMBERS if rng.random() < 0.6 else HOSTILE)]


@st.composite
def inputs(draw: st.DrawFn, valid: Mapping[str, bytes]) -> Input:
    """Draw a command line of a command, with options beside, and damage to some of the files that it names."""
    names = [name for name in COMMANDS if name in BASES]
    name = draw(st.sampled_from([name for name in names for _ in range(_WEIGHTS.get(name, 1))]))
    rng = draw(st.randoms(use_true_random=True))
    words = list(rng.choice(BASES[name])(rng))
    options = [one for one in _command(name, words).params if isinstance(one, click.Option)]
    for option in rng.sample(options, min(len(options), draw(st.sampled_from((0, 0, 0, 1, 1, 2, 3))))):
        words += _option(option, rng)
    if rng.random() < 0.1:
        words[rng.randrange(len(words))] = rng.choice([*HOSTILE, *NUMBERS, *OURS, "--nonsense"])
    return Input((name, *words), _files(words, valid, rng))


def _files(words: list[str], valid: Mapping[str, bytes], rng: random.Random) -> dict[str, bytes]:
    named = [word for word in dict.fromkeys(words) if word in valid]
    named += [f"{words[-1]}.csv"] if words[:1] == ["published"] and f"{words[-1]}.csv" in valid else []
    named += [part for word in words for part in word.split("=") if part in valid and part not in named]
    changed = {one: damaged(valid[one], rng) for one in named if rng.random() < 0.5}
    if named and rng.random() < 0.04:  # a file of one kind where another is due
        changed[rng.choice(named)] = valid[rng.choice(list(valid))]
    return changed
