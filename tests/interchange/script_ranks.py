"""Ranks that run a script of torch's, forked from one process that has imported torch, as torchrun would start them."""

import importlib.util
import multiprocessing
import os
import pickle
import socket
import sys
from collections import Counter
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
# What each rank would import: done once, before they are forked.
CONTEXT.set_forkserver_preload(
    [
        "torch", "torch.distributed.fsdp", "torch.distributed.pipelining", "torch.distributed.tensor.parallel",
        "torch.distributed._composable.replicate", "mpsim.workload.example", "mpsim.workload.source",
    ]
)  # fmt: skip
KINDS = {
    "_allgather_base_": "all_gather", "all_gather_into_tensor": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter", "reduce_scatter_tensor": "reduce_scatter",
    "allreduce_": "all_reduce", "all_reduce": "all_reduce", "send": "send",
}  # fmt: skip


def run(script: Path, ranks: int, steps: int) -> list[tuple[list, Counter]]:
    """Return of each rank the losses of its steps, and what its second step sent."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    processes = [CONTEXT.Process(target=_be, args=(script, {**env, "RANK": str(i)}, steps)) for i in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0] * ranks
    return [pickle.loads(Path(f"{script}.{i}").read_bytes()) for i in range(ranks)]


def _be(script, env, steps):
    import torch

    os.environ.update(env)
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    sys.argv = [str(script), "--steps", str(steps), "--lr", "1e-2"]
    module = load(script)
    losses, calls = [], []
    step = module.Trainer.step

    def recorded(trainer):
        with _recorder() as found:
            loss = step(trainer)
        losses.append(loss)
        calls.append(Counter(found.calls))
        return loss

    module.Trainer.step = recorded
    module.main(module.PLAN, module.make)
    Path(f"{script}.{env['RANK']}").write_bytes(pickle.dumps((losses, calls[1])))


def load(script):
    """Return a script as a module."""
    spec = importlib.util.spec_from_file_location("script", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules["script"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def _recorder():
    import torch
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        """Notes the kind, the bytes of the whole and the ranks of every collective, and every message."""

        def __init__(self):
            super().__init__()
            self.calls = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if any(issubclass(one, DTensor) for one in types):
                return NotImplemented
            result = func(*args, **(kwargs or {}))
            space, _, name = func._schema.name.partition("::")
            if space in ("c10d", "_c10d_functional") and name in KINDS:
                tensors = [one for one in torch.utils._pytree.tree_leaves((args, result)) if torch.is_tensor(one)]
                size = max(one.numel() * one.element_size() for one in tensors)
                group = next(_ranks(one) for one in args if isinstance(one, str | torch.ScriptObject) and _ranks(one))
                if name == "send":
                    group = (group[args[2]],) if len(group) > 1 else group
                self.calls.append((KINDS[name], size, group))
            return result

    def _ranks(one):
        try:
            group = dist.ProcessGroup.unbox(one) if not isinstance(one, str) else None
            found = group or torch.distributed.distributed_c10d._resolve_process_group(one)
        except (RuntimeError, ValueError):
            return ()
        return tuple(dist.get_process_group_ranks(found))

    return Recorder()
