"""What FSDP holds, by PyTorch's own memory tracker, against the prediction: ``python benchmarks/fsdp_memory.py``.

Each case runs ``fully_shard`` on a CPU under a process group whose other ranks do not exist, with every tensor real,
and follows each allocation (``torch.distributed._tools.fsdp2_mem_tracker.FSDPMemTracker``). The prediction is a plain
trace of the model on one device, sharded by mpsim. Writes ``docs/fsdp-memory.md``; nothing is timed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from fsdp_of_torch import fake_ranks, sharded
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.fsdp import FSDPModule

import mpsim
from mpsim.documents import write_text
from mpsim.plan.sharding import Sharding
from mpsim.workload import zoo
from mpsim.workload.example import Example, default_loss

PAGE = Path(__file__).parents[1] / "docs" / "fsdp-memory.md"
TEXT = {"n_layer": 4, "hidden": 128, "n_head": 4, "ffn": 512, "vocab": 1000, "seq": 64}
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": TEXT,
    "llama": {**TEXT, "n_kv_head": 2},
    "bert-base": TEXT,
    "vit-b16": {"n_layer": 4, "hidden": 128, "n_head": 4, "ffn": 512, "image": 64, "classes": 50},
}
RESHARDED = {"blocks": None, "all": True, "none": False}
HEAD = """# What FSDP holds

Made by `python benchmarks/fsdp_memory.py`. Each row is one training step (the second, with AdamW's state there) of a
model under PyTorch's `fully_shard`, each block a unit, with one unit gathered ahead in forward too
(`set_modules_to_forward_prefetch`), in float32 on a CPU: MB predicted / MB by PyTorch's `FSDPMemTracker`, each at the
moment of its own peak. *gathered* are unsharded parameters and the buffers of all-gathers, *gradients* whole ones,
shares and the inputs of reduce-scatters, *activations* all else. The prediction shards a trace of the model on one
device, cut within blocks; nothing is fitted. *block by block* is the error where the trace has a block as one layer,
which is taken to hold all that it keeps and all gradients that it makes at one moment.

Where the moments of two peaks differ, so do their parts: a backward of the loss holds no block's parameters, the next
one's two. *Not modelled*: for a moment, while a unit is copied out of its buffer, the buffer of the one before it is
still there; and whoever keeps the model's output in a variable, as a training loop does, has it (here a megabyte of
logits) until the backward is over. With every block checkpointed that is what is left of the peak: 8 % of 13.7 MB.
"""


class Case(NamedTuple):
    """A model, replicas, what is kept, and micro-batches, over which gradients may accumulate whole."""

    model: str
    dp: int
    reshard: str = "blocks"
    microbatches: int = 1
    accumulate: bool = False


class Parts(NamedTuple):
    """Bytes at the moment of the peak; activations with all that is inside layers for a while."""

    parameters: int
    gathered: int
    optimizer: int
    gradients: int
    activations: int
    total: int


CASES = (
    Case("gpt2", 2), Case("gpt2", 4), Case("gpt2", 8, "all"), Case("gpt2", 4, "none"),
    Case("gpt2", 4, "blocks", 2, True),
    Case("llama", 2), Case("llama", 4), Case("llama", 8, "none"), Case("llama", 4, "blocks", 3, True),
    Case("llama", 4, "blocks", 2), Case("bert-base", 4), Case("bert-base", 2, "none"), Case("vit-b16", 4),
    Case("vit-b16", 8, "blocks", 2, True),
)  # fmt: skip


class Tracker(FSDPMemTracker):
    """Keeps the parts at the total's peak, and the most of gradients."""

    parts = Parts(0, 0, 0, 0, 0, 0)

    def _update_peak_stats(self, state: Any) -> None:
        super()._update_peak_stats(state)
        for found in self.get_tracker_snapshot().values():
            held = {getattr(kind, "value", kind): count for kind, count in found.items()}
            total = held["Total"] - held["Inputs"] - held["Buffer"]
            if total > self.parts.total:
                own = (held["Sharded Param"], held["Unsharded Param"] + held["All Gather"], held["OptState"])
                gradients = held["Reduce Scatter"] + self._gradients()
                self.parts = Parts(*own, gradients, total - sum(own) - gradients, total)

    def _gradients(self) -> int:
        """Return the bytes of gradients, whole and sharded: in a backward the tracker takes whole ones for others."""
        groups = [
            one._get_fsdp_state()._fsdp_param_group for one in self._root_mod.modules() if isinstance(one, FSDPModule)
        ]
        found: set[torch.UntypedStorage] = set()
        for one in (one for group in groups if group for one in group.fsdp_params):
            whole = getattr(one, "_unsharded_param", None)
            sharded = one.sharded_param.grad
            tensors = (
                None if whole is None else whole.grad,
                getattr(one, "unsharded_accumulated_grad", None),
                None if sharded is None else sharded._local_tensor,
            )
            found |= {tensor.untyped_storage() for tensor in tensors if tensor is not None}
        return sum({one.data_ptr(): one.nbytes() for one in found}.values())


def example_of(model: str, size: int = 4) -> Example:
    """Return a model with a micro-batch."""
    return zoo.get(model).build(size, **SIZES[model])


def tracked(case: Case) -> Parts:
    """Return what PyTorch's tracker sees of a step."""
    example = example_of(case.model)
    with fake_ranks(case.dp, names=("dp",)) as mesh:
        model = sharded(example.model, mesh, prefetch=True, reshard_after_forward=RESHARDED[case.reshard])
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
        tracker = Tracker(model, optimizer)
        tracker.track_inputs(example.inputs)
        with tracker:
            for _ in range(2):
                tracker.parts = Parts(0, 0, 0, 0, 0, 0)
                _step(case, example, optimizer, tracker)
    return tracker.parts


def _step(case: Case, example: Example, optimizer: torch.optim.Optimizer, tracker: Tracker) -> None:
    for i in range(case.microbatches):
        tracker.reset_mod_stats()
        example.model.set_requires_gradient_sync(not case.accumulate or i == case.microbatches - 1)
        output = example.model(*example.inputs, **example.keywords)
        loss = (example.loss or default_loss)(output, example.target)
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def predicted(case: Case, workload: mpsim.Workload) -> Parts:
    """Return what mpsim says of it."""
    sharding = Sharding(zero=3, reshard_after_forward=case.reshard, accumulate=case.accumulate)
    plan = mpsim.Plan(dp=case.dp, microbatches=case.microbatches, sharding=sharding)
    topology = mpsim.parse_topology(f"fully_connected:{case.dp},link=1GB/s@1us")
    # One repetition of a small model says little of times, of which none is asked.
    result = mpsim.simulate(workload, topology, plan, unchecked=True)
    held = result.devices[0].memory
    inside = held.activations_bytes + held.transients_bytes
    parts = (held.parameters_bytes, held.gathered_bytes, held.optimizer_bytes, held.gradients_bytes, inside)
    return Parts(*parts, sum(parts))


def workload_of(model: str, depth: int | str = 4) -> mpsim.Workload:
    """Return the trace of a model as it is, on one device."""
    return mpsim.trace(lambda size: example_of(model, size), 4, repeats=1, warmup=0, progress=False, depth=depth)


def name_of(case: Case) -> str:
    """Return what a case is, in a few words."""
    kept = "" if case.reshard == "blocks" else f", reshard {case.reshard}"
    several = f", {case.microbatches} micro-batches" if case.microbatches > 1 else ""
    return f"{case.model}, dp {case.dp}{kept}{several}{' accumulated' if case.accumulate else ''}"


def main() -> None:
    workloads = {model: [workload_of(model), workload_of(model, "auto")] for model in SIZES}
    heads = ("case", *Parts._fields, "error", "block by block")
    rows: list[tuple[str, ...]] = [heads, ("---",) * len(heads)]
    errors: list[list[float]] = [[], []]
    for case in CASES:
        real = tracked(case)
        fine, blocks = (predicted(case, workload) for workload in workloads[case.model])
        for found, told in zip(errors, (fine, blocks), strict=True):
            found.append(told.total / real.total - 1)
        sizes = (f"{a / 1e6:.2f} / {b / 1e6:.2f}" for a, b in zip(fine, real, strict=True))
        rows.append((name_of(case), *sizes, *(f"{found[-1]:+.1%}" for found in errors)))
        print(" | ".join(rows[-1]), flush=True)
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    lines = [f"mean {sum(map(abs, found)) / len(found):.1%}, worst {max(map(abs, found)):.1%}" for found in errors]
    last = f"{len(CASES)} cases: {lines[0]}; block by block {lines[1]}."
    print(last)
    write_text(PAGE, f"{HEAD}\n{table}\n\n{last}\n")


if __name__ == "__main__":
    main()
