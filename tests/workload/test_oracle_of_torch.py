"""Oracle: the collectives of a predicted step against those of PyTorch's own parallel APIs, by `CommDebugMode`.

PyTorch shards the model by `parallelize_module`, its sequence by `SequenceParallel` and `PrepareModuleInput`, its
context by `context_parallel`, all under a process group whose other ranks do not exist; nothing here is mpsim's but the
prediction: trace, plan, lowering.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from unittest.mock import MagicMock

import pytest

from mpsim import trace
from mpsim.lowering.bind import scripts
from mpsim.lowering.instructions import Collective, Parts
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.topology.builders import fully_connected
from mpsim.topology.wire import Wire
from mpsim.workload import zoo
from mpsim.workload.split import Split

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("torch.distributed.tensor.experimental._attention")

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module  # noqa: E402
from torch.distributed.tensor.debug import CommDebugMode  # noqa: E402
from torch.distributed.tensor.experimental import context_parallel  # noqa: E402
from torch.distributed.tensor.experimental._attention import set_rotate_method  # noqa: E402
from torch.distributed.tensor.parallel import (  # noqa: E402
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402

from mpsim.lowering.rescaling import roofline_of  # noqa: E402
from mpsim.workload.fused import fused_attention  # noqa: E402
from mpsim.workload.shapes import ShapesMode  # noqa: E402

BATCH, SEQ = 2, 16
TEXT = {"n_layer": 1, "hidden": 32, "n_head": 4, "ffn": 64, "vocab": 48, "seq": SEQ}
SMALL = {
    "llama": {**TEXT, "n_kv_head": 2},
    "gpt2": TEXT,
    "mixtral": {**TEXT, "n_kv_head": 2, "n_expert": 4, "top_k": 2},
}
NAMES = {
    "all_reduce": "all_reduce",
    "all_gather_into_tensor": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "all_to_all_single": "all_to_all",
}


def small(name):
    return zoo.get(name).build(BATCH, **SMALL[name])


class Counted(CommDebugMode):
    """PyTorch's own count, which notes also whose collective each is and how large."""

    def __init__(self):
        super().__init__()
        self.found = Counter()
        self.advanced_module_tracker = MagicMock()  # counts alone: what module each is of takes minutes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = sum(self.comm_counts.values())
        result = super().__torch_dispatch__(func, types, args, kwargs)
        name = getattr(func, "_schema", func).name.partition("::")[2] if hasattr(func, "_schema") else ""
        if sum(self.comm_counts.values()) > before and name in NAMES:
            kind = NAMES[name]
            if kind == "all_to_all" and sum(map(bool, args[2] or [])) == 1:
                kind = "send_receive"
            tensor = result if kind == "all_gather" else args[0]
            group = next(item for item in args if isinstance(item, str) and item in GROUPS)
            self.found[kind, GROUPS[group], tensor.numel() * tensor.element_size()] += 1
        return result


GROUPS = {}


class Experts(ParallelStyle):
    """A mixture's experts of some inner features, put together of DTensor's parts."""

    def __init__(self, sequence):
        self.here = Shard(0) if sequence else Replicate()

    def _apply(self, module, mesh):
        halves = [part.chunk(mesh.size(), 1)[0] for part in module.gate_up_proj.detach().chunk(2, 1)]
        module.gate_up_proj = nn.Parameter(torch.cat(halves, 1).clone())
        module.down_proj = nn.Parameter(module.down_proj.detach().chunk(mesh.size(), 2)[0].clone())

        def read(item):
            whole = DTensor.from_local(item, mesh, (self.here,), run_check=False).redistribute(
                placements=(Replicate(),)
            )
            return whole.to_local(grad_placements=(Partial(),)) if item.is_floating_point() else whole.to_local()

        def summed(_module, _inputs, output):
            part = DTensor.from_local(output, mesh, (Partial(),), run_check=False)
            return part.redistribute(placements=(self.here,)).to_local()

        module.register_forward_pre_hook(lambda _, inputs: tuple(map(read, inputs)))
        module.register_forward_hook(summed)
        return module


class OwnPart(ParallelStyle):
    """A module of whole weights in the midst of features of which each rank has a part: it runs on the rank's own."""

    def _apply(self, module, mesh):
        def own(_module, inputs):
            return (inputs[0].to_local(), *inputs[1:])

        def shared(_module, _inputs, output):
            return DTensor.from_local(output, mesh, (Shard(1),), run_check=False)

        module.register_forward_pre_hook(own)
        module.register_forward_hook(shared)
        return module


def of_positions(module, mesh):
    """Let an embedding of whole weights embed a rank's own positions."""
    distribute_module(module, mesh)
    style = PrepareModuleInput(input_layouts=(Replicate(),), desired_input_layouts=(Shard(1),))
    return parallelize_module(module, mesh, style)


def parallelized(name, model, mesh, sequence):
    """Shard a model by PyTorch's own styles."""
    here = Shard(1) if sequence else Replicate()
    rows = lambda **more: RowwiseParallel(output_layouts=here, use_local_output=not sequence, **more)  # noqa: E731
    whole = lambda count: PrepareModuleInput(  # noqa: E731
        input_layouts=(here,) * count, desired_input_layouts=(Replicate(),) * count
    )
    named = PrepareModuleInput(
        input_kwarg_layouts={"hidden_states": here}, desired_input_kwarg_layouts={"hidden_states": Replicate()}
    )
    head = ColwiseParallel(input_layouts=here, use_local_output=False)
    embedding = rows(input_layouts=Replicate())
    if name == "gpt2":
        plan = {"transformer.wte": embedding, "lm_head": head}
        for i in range(TEXT["n_layer"]):
            block = f"transformer.h.{i}"
            plan |= {f"{block}.attn": whole(1), f"{block}.attn.c_attn": ColwiseParallel(), f"{block}.mlp": whole(1)}
            plan |= {
                f"{block}.mlp.c_fc": ColwiseParallel(),
                f"{block}.attn.c_proj": rows(),
                f"{block}.mlp.c_proj": rows(),
            }
        if sequence:
            of_positions(model.transformer.wpe, mesh)
    else:
        plan = {"model.embed_tokens": embedding, "lm_head": head}
        for i in range(TEXT["n_layer"]):
            block = f"model.layers.{i}"
            plan |= {f"{block}.self_attn": named, f"{block}.self_attn.o_proj": rows()}
            plan |= {f"{block}.self_attn.{one}_proj": ColwiseParallel() for one in "qkv"}
            if name == "llama":
                plan |= {f"{block}.mlp": whole(1), f"{block}.mlp.down_proj": rows()}
                plan |= {f"{block}.mlp.{one}_proj": ColwiseParallel() for one in ("gate", "up")}
            else:
                plan[f"{block}.mlp.experts"] = Experts(sequence)
                plan |= {f"{block}.mlp": OwnPart()} if sequence else {}
    if sequence:
        norms = [
            path for path, module in model.named_modules() if type(module).__name__.endswith(("Norm", "LayerNorm"))
        ]
        plan |= {path: SequenceParallel() for path in norms}
    tied = model.get_submodule("lm_head").weight is model.get_input_embeddings().weight
    parallelize_module(model, mesh, plan, src_data_rank=None)
    if tied:
        model.get_submodule("lm_head").weight = model.get_input_embeddings().weight
    if name == "gpt2":
        for block in model.transformer.h:
            block.attn.split_size //= mesh.size()


def of_torch(name, *, tp=1, cp=1, sequence=False, rotate="allgather"):
    """Return what PyTorch exchanges in forward, loss and backward, and the gradients of parts: their bytes."""
    sizes = {key: size for key, size in {"cp": cp, "tp": tp}.items() if size > 1}
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=tp * cp)
    try:
        mesh = init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        GROUPS.clear()
        GROUPS.update({mesh.get_group(axis).group_name: axis for axis in sizes})
        with ShapesMode(allow_non_fake_inputs=True), fused_attention(), ExitStack() as stack:
            example = small(name)
            model, tokens, target = example.model, example.inputs[0], example.target
            if tp > 1:
                parallelized(name, model, mesh["tp"], sequence)
                stack.enter_context(loss_parallel())
            if cp > 1:
                set_rotate_method(rotate)
                buffers = [tokens, target]
                stack.enter_context(
                    context_parallel(
                        mesh["cp"], buffers=buffers, buffer_seq_dims=[1, 1], no_restore_buffers=set(buffers)
                    )
                )
            with Counted() as counted:
                example.loss(model(tokens), target).backward()
            assert sum(counted.get_comm_counts().values()) == sum(counted.found.values())
        grads = [item.grad for item in model.parameters() if isinstance(item.grad, DTensor)]
        parts = sum(g.to_local().numel() * 4 for g in grads if any(p.is_partial() for p in g.placements))
        if sequence:  # a router, of whole plain weights, has seen the rank's own tokens
            parts += sum(p.grad.numel() * 4 for path, p in model.named_parameters() if path.endswith("mlp.gate.weight"))
        return counted.found, parts
    finally:
        set_rotate_method("allgather")
        dist.destroy_process_group()


def predicted(name, *, tp=1, cp=1, sequence=False, context="all-gather"):
    """Return what a plan's lowering exchanges in a step, and the bytes of the gradients of parts."""
    split = Split(tp=tp, cp=cp, sequence=sequence)
    work = trace(
        lambda _: small(name),
        microbatches=(BATCH,),
        splits=(split,),
        context=context,
        analytical=roofline_of("H100-SXM5-80GB"),
    )
    plan = Plan(tp=tp, cp=cp, batch=BATCH, sharding=Sharding(sequence=sequence))
    lowering = lower(work, fully_connected(tp * cp, link=Wire(1e9)), plan)
    steps = [one for one in scripts(lowering)[0].steps if isinstance(one, Collective)]
    groups = {tuple(lowering.grid.group(0, axis)): axis for axis in ("tp", "cp")}
    parts = sum(one.bytes for one in steps if isinstance(one.of, Parts))
    # Replicas of a sequence reduce all gradients, which here nobody does for PyTorch.
    layers = [one for one in steps if one.axis != "dp" and not isinstance(one.of, Parts)]
    assert all(one.group == tuple(lowering.grid.group(0, one.axis)) for one in layers)
    return Counter((one.kind, groups[one.group], one.bytes) for one in layers), parts


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "plan",
    [{"tp": 2}, {"tp": 2, "sequence": True}, {"cp": 2}, {"tp": 2, "cp": 2}, {"tp": 2, "cp": 2, "sequence": True}],
    ids=lambda plan: ",".join(f"{key}={value}" for key, value in plan.items()),
)
def test_a_step_exchanges_what_torch_exchanges(name, plan):
    assert predicted(name, **plan) == of_torch(name, **plan)


@pytest.mark.parametrize("cp", [2, 4])
def test_a_ring_moves_what_torchs_moves(cp):
    assert predicted("llama", cp=cp, context="ring") == of_torch("llama", cp=cp, rotate="alltoall")
