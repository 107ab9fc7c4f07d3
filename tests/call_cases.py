"""Valid calls of all that is public, and values of the wrong types to draw from."""

import inspect
import math
from pathlib import Path

import numpy as np
import pytest

import mpsim
from mpsim.program.model import Program, Stream, Task

NEED_TORCH = ("Example", "ModelSplitter", "ParallelTrainer", "configured", "trace")


class Odd:
    """Nothing that any call takes."""


def arguments(folder):
    """Return for each public callable arguments by name with which it works, each soon done."""
    layers = [mpsim.Layer.given(name, forward_s=1.0, backward_s=2.0, parameter_bytes=64) for name in "ab"]
    work = mpsim.Workload.chain("two", layers, activation_bytes=1024)
    network = mpsim.parse_topology("chain:2,link=1GB/s@2us,memory=1GiB")
    plan = mpsim.Plan(pp=2, microbatches=2)
    result = mpsim.simulate(work, network, plan)
    run = {"workload": work, "topology": network, "plan": plan}
    setting = {"by_type": {}, "rescale": None, "speed": None, "unchecked": False, "host_speed": 1.0}
    trials = {"trials": 2, "rng": 0, "variability": mpsim.Variability(), "processes": 1}
    failing = {
        "failures": mpsim.Failures(mtbf_s="1h"),
        "checkpoints": mpsim.Checkpoints(every_s=60.0, write_s=1.0),
        "recovery": mpsim.Recovery(restart_s=1.0),
        "stragglers": None, "horizon": "1h", "trials": 2, "rng": 0, "tokens_per_sample": 1,
    }  # fmt: skip
    study = mpsim.Study(work, network)
    found = mpsim.sweep(work, network, batch=2, processes=1)
    lost = mpsim.goodput(**run, **failing)
    table = str(folder / "t.csv")
    saved = {name: str(folder / f"{name}.json") for name in ("goodput", "plan", "result", "topology", "workload")}
    for name, value in zip(sorted(saved), (lost, plan, result, network, work), strict=True):
        value.save(saved[name])
    found.save(table)
    calls = {
        "Axes": {"devices": (1, 2), "dp": (1,), "pp": (2,), "schedules": ("gpipe",), "zero": (0,), "launch": ("",)},
        "Checkpoints": {"every_s": 60.0, "kind": "async", "write_s": 1.0, "copy_s": 1.0},
        "Device": {"name": "d", "type": "T4", "memory_bytes": 8, "speed": 1.0, "post_s": 0.0, "host": ""},
        "Event": {"at_s": 1.0, "what": "d0", "factor": 2.0, "lasting_s": 1.0},
        "Failures": {"mtbf_s": "1h", "by_type": {"T4": "1h"}, "shape": 1.0, "listed": ()},
        "Job": {"name": "a", "workload": work, "plan": plan, "by_type": {}},
        "Layer": {"name": "a", "kind": "", "shards": layers[0].shards, "costs": layers[0].costs},
        "Link": {"source": "a", "target": "b", "bandwidth_bytes_per_s": 1.0, "latency_s": 0.0, "type": ""},
        "MpsimError": {"message": "x"},
        "Plan": {"dp": 1, "pp": 2, "microbatches": 2, "batch": 2, "schedule": "gpipe", "boundaries": (1,),
                 "devices": (0, 1), "algorithm": "ring", "runtime": "ideal", "launch": "", "chunks": 0,
                 "sharding": mpsim.Sharding(), "bucket_bytes": 1},
        "Recovery": {"detect_s": 1.0, "spares": 1, "repair_s": "1h", "smaller": False},
        "Sharding": {"zero": 3, "units": "blocks", "gather_ahead": 1, "recompute": "", "gather_dtype": "float32",
                     "shards": 2, "accumulate": False, "offload": ""},
        "Stragglers": {"every_s": "1h", "factor": 2.0, "lasting_s": 1.0},
        "Study": {"workload": work, "topology": network, **setting},
        "SweepResult": {"rows": found.rows, "planned": 3, "notes": ()},
        "Topology": {"name": "t", "devices": network.devices, "switches": (), "links": network.links, "costs": ()},
        "Trials": {"count": 2, "rng": 0, "variability": mpsim.Variability(), "processes": 1},
        "Variability": {"link_jitter_s": 0.0, "straggler_probability": 0.1, "straggler_factor": 2.0},
        "best": {"study": study, "batch": 2, "axes": mpsim.Axes(devices=(2,)), "base": plan, "top": 1, "processes": 1,
                 "trials": None, "output": None, "progress": None},
        "calibrate": {"topology": network, "measurements": ()},
        "calibrate_compute": {"workload": work, "topology": network, "layers_s": {"a": 1.0}},
        "draw": {"topology": network},
        "explain": {**run, **setting, "against": None, "what_ifs": False, "fold": None, "progress": None},
        "goodput": {**run, **failing, **setting},
        "make_fit": {**run, **setting, "progress": None},
        "parse_topology": {"text": "ring:4,link=nvlink4"},
        "read_log": {"path": "none.log"},
        "save_perfetto": {"path": str(folder / "p.json"), "result": result},
        "save_result": {"path": saved["result"], "result": result, "spans": True},
        "save_sweep": {"path": table, "result": found},
        "show_workload": {"workload": work, "microbatch": 1, "split": 1},
        "simulate": {**run, **setting, **trials, "baseline": None, "spans": True, "fold": None},
        "simulate_collectives": {"sizes": (8, 16), "topology": network, "kind": "all_reduce", "algorithm": "ring",
                                 "runtime": "ideal", "devices": 2, "fold": None, **trials},
        "simulate_jobs": {"jobs": [mpsim.Job(name="a", workload=work, plan=plan)], "topology": network, "steps": 2,
                          "rescale": None, "speed": None, "unchecked": False},
        "summary": {"result": result},
        "sweep": {"workload": work, "topology": network, "batch": 2, "devices": 2, "microbatches": (1, 2),
                  "schedules": ("gpipe",), "tensor": (1,), "algorithm": "ring", "runtime": "ideal", "recompute": "",
                  "output": None, "cache": False, "speedups": True, "baseline": None, "executor": None, **setting,
                  **trials},
    }  # fmt: skip
    calls |= {f"load_{name}": {"path": path} for name, path in saved.items()} | {"load_sweep": {"path": table}}
    calls["save_goodput"] = {"path": saved["goodput"], "found": lost}
    values = {"plan": plan, "topology": network, "workload": work}
    calls |= {f"save_{name}": {"path": saved[name], name: value} for name, value in values.items()}
    whole = {"Explanation": mpsim.explain(**run, what_ifs=False), "Goodput": lost, "MadeFit": mpsim.make_fit(**run),
             "Result": result, "Workload": work}  # fmt: skip
    calls |= {
        name: {one: getattr(value, one) for one in inspect.signature(type(value)).parameters}
        for name, value in whole.items()
    }
    return calls


def arguments_of_models():
    """Return the same of what needs PyTorch; costed by a roofline, not run."""
    torch = pytest.importorskip("torch")
    model, batch = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)), torch.ones(2, 4)
    from mpsim.emulate import Device

    roofline = "H100-SXM5-80GB"
    return {
        "Example": {"model": model, "inputs": (batch,), "keywords": {}, "loss": None, "shared": {}, "imbalance": 1.0},
        "ModelSplitter": {"model": model, "num_devices": 2, "plan": None, "devices": None, "chunks": 2, "depth": "auto",
                          "on_failure": "raise"},
        "ParallelTrainer": {"devices": [Device("a", "1 GiB"), Device("b", "1 GiB")], "plan": None, "loss": None,
                            "on_failure": "raise"},
        "configured": {"model": lambda size: (model, torch.ones(size, 4)), "device": roofline, "seq": None,
                       "precision": None, "splits": (), "microbatches": (1,), "measured": None, "overrides": None},
        "trace": {"model": model, "batch": batch, "name": "m", "microbatches": (2,), "tensor": (1,), "splits": (),
                  "imbalance": None, "context": "all-gather", "regather": False, "depth": "auto", "repeats": 1,
                  "warmup": 0, "optimizer": "sgd", "precision": None, "threads": 1, "device": "cpu", "target": None,
                  "loss": None, "tensor_parallel": None, "dataset_samples": 0, "analytical": roofline,
                  "progress": False},
    }  # fmt: skip


def arguments_of_rooms(folder):
    """Return the same of what rooms list that are public under their own name; none of it is run for real."""
    pytest.importorskip("torch")
    given = arguments(folder)["simulate"]
    run = {name: given[name] for name in ("workload", "topology", "plan")}
    real = {"trials": 0, "fabric": "host", "measure_links": True, "warm_ups": 1, "progress": False}
    tasks = (Task("a", "forward", (0,), (), 0.5),)
    made = {"program": Program(streams=(Stream(device=0, name="compute"),), tasks=tasks), "topology": run["topology"]}
    chakra = {"topology": run["topology"], "in_flight": 1, "algorithm": "ring", "control": False, "groups": None}
    scaled = {name: given[name] for name in ("by_type", "rescale", "speed", "rng", "variability", "baseline")}
    return {
        "emulate.Device": {"id": "a", "memory_capacity": "1 GiB"},
        "emulate.emulate": {**run, **real, **scaled, "compute": "replay", "model": None, "depth": "auto",
                            "draws": True},
        "emulate.emulate_collectives": {"sizes": (8,), "topology": run["topology"], "kind": "all_reduce", "devices": 1,
                                        **real},
        "interchange.from_chakra": {"traces": (), **chakra},
        "interchange.load_astra_network": {"path": "none.yml"},
        "interchange.load_chakra": {"paths": ["none"], "copies": 1, **chakra},
        "interchange.load_kineto": {"path": "none.json", "microbatch": 1, "depth": 1, "name": ""},
        "interchange.load_perfetto": {"path": "none.json"},
        "interchange.replay_program": {**made, "name": "a", "plan": "b"},
        "interchange.save_chakra": {"prefix": str(folder / "step"), **made},
        "interchange.to_chakra": made,
        "interchange.torch_script": {"plan": "dp=2", "workload": run["workload"], "model": "mnist-mlp", "sizes": None},
    }  # fmt: skip


def wrong_values(folder):
    """Return values of types that few arguments take, and numbers that hardly any takes."""
    given = arguments(folder)["simulate"]
    return [
        None, True, -1, 10**30, 2.5, -0.5, math.nan, math.inf, 1j, "", "two", "2", "no/such/file.json", b"bytes",
        [], [None], ["a"], (1, "a"), [[]], {}, {"a": 1}, {1, 2}, range(3), object(), Odd(), Odd, len, lambda: 1,
        Path("nowhere.json"), np.arange(2.0), np.float64(2.5), np.int64(-3), given["workload"], given["topology"],
        given["plan"], [given["workload"]], mpsim.MpsimError("x"), iter(()), (one for one in ()), Ellipsis, "\0",
        "\udc80",
    ]  # fmt: skip
