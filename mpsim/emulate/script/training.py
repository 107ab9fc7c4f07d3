"""The run: ranks on a mesh, the model's parts on each, and steps of all micro-batches."""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage, schedules
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import loss_parallel
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from mpsim.emulate.script.replicas import replicated, sharded
from mpsim.emulate.script.shared import local_parameters, share_layers
from mpsim.emulate.script.stages import stage_of

__all__ = ["Settings", "Trainer", "main"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a plan says.

    Attributes
    ----------
    grid : dict of str to int
        Ranks along each axis, the outermost first.
    ranks : list of int
        Which rank stands at each place of the grid, the last axis innermost.
    microbatch, microbatches : int
        Samples in one, and how many a replica has.
    stages : list of list of str
        Paths of the layers of each stage.
    stage_ranks : list of int
        Which pipeline rank has each stage.
    skipped, sent : dict, list
        What a layer returns where it is skipped, and the type and shape of what each stage returns.
    schedule : str
        A name of torch's, or rows as its CSV has them.
    styles : dict of str to str
        Of the modules that ranks share.
    zero : int
        3: replicas shard all, 0: they each hold all.
    units : list of str
        What is gathered at once, beside the rest.
    reshard, ahead, param_dtype, reduce_dtype, accumulate, keep
        How, as `fully_shard` has it.
    bucket_mib : float or None
        Of DistributedDataParallel; None: its own.
    recompute : list of str
        Layers of which only what they read is kept; ``stages``: of stages.
    precision, optimizer : str
        ``bf16``, ``bf16-mixed``, ``tf32`` or ``fp32``; a class of torch.optim.
    """

    grid: dict[str, int]
    ranks: list[int]
    microbatch: int
    microbatches: int
    stages: list[list[str]]
    stage_ranks: list[int]
    skipped: dict[str, Any] = field(default_factory=dict)
    sent: list[Any] = field(default_factory=list)
    schedule: str = ""
    styles: dict[str, str] = field(default_factory=dict)
    zero: int = 0
    units: list[str] = field(default_factory=list)
    reshard: bool | None = None
    ahead: int = 1
    param_dtype: str = ""
    reduce_dtype: str = ""
    accumulate: bool = False
    keep: bool = False
    bucket_mib: float | None = None
    recompute: list[str] = field(default_factory=list)
    precision: str = "fp32"
    optimizer: str = "AdamW"


class Trainer:
    """One rank of a plan.

    Attributes
    ----------
    parts : dict of int to torch.nn.Module
        The rank's stages, or the whole model, as its replicas wrap it.
    """

    def __init__(self, settings: Settings, made: Any, device: str, lr: float) -> None:
        self.of, self.device = settings, torch.device(device)
        model, self.inputs, self.keywords, self.target, self.loss = _example(made)
        model.train()
        self.names = [str(i) for i in range(len(self.inputs))]
        shape = tuple(settings.grid.values())
        self.mesh = DeviceMesh(
            self.device.type, torch.tensor(settings.ranks).reshape(shape), mesh_dim_names=tuple(settings.grid)
        )
        self.at = dict(zip(settings.grid, self.mesh.get_coordinate(), strict=True))
        own = [i for i, rank in enumerate(settings.stage_ranks) if rank == self.at.get("pp", 0)]
        self.tied = _tied(model, settings.stages)
        self.groups = self._groups_of_tied()
        self.modules = {i: self._stage(model, i) for i in own}
        self.parts = {i: self._replica(module) for i, module in self.modules.items()}
        self.schedule = self._schedule() if len(settings.stages) > 1 else None
        kind = getattr(torch.optim, settings.optimizer.split("(")[0])
        more = {"momentum": 0.9} if settings.optimizer.endswith("(momentum)") else {}
        parameters = list(chain.from_iterable(module.parameters() for module in self.modules.values()))
        self.optimizer = kind(parameters, lr=lr, foreach=False if settings.styles else None, **more)

    def step(self) -> float | None:
        """Take a step and return its loss, the mean over micro-batches of this replica, where the last stage is."""
        if self.of.schedule:
            losses = self._pipeline_step()
        else:
            losses = [self._microbatch_step(k) for k in range(self.of.microbatches)]
        self._reduce_tied()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(torch.stack(losses).mean()) if losses else None

    def _stage(self, model: nn.Module, index: int) -> nn.Module:
        """Return the part of the model that is one stage, its layers shared and recomputed."""
        of = self.of
        if len(of.stages) > 1:
            part = stage_of(model, of.stages, index, self.names, of.skipped)
            inner = part.model
        else:
            part = inner = copy.deepcopy(model)
        if of.precision == "bf16":
            part.to(torch.bfloat16)
        part.to(self.device)
        if of.styles:
            share_layers(inner, of.styles, self.mesh["tp"])
        for path in of.recompute:
            if path != "stages" and path in of.stages[index]:
                _recompute(inner.get_submodule(path))
        return part

    def _replica(self, part: nn.Module) -> nn.Module:
        """Let replicas exchange gradients, or parameters too."""
        of = self.of
        axes = [name for name in ("replica", "shard", "dp") if name in of.grid]
        wrapped = part
        if of.zero:
            types = {"param_dtype": of.param_dtype, "reduce_dtype": of.reduce_dtype}
            mesh = self.mesh[tuple(axes)]
            wrapped = sharded(part, mesh, of.units, reshard=of.reshard, ahead=of.ahead, **types)
        elif of.grid.get("dp", 1) > 1:
            if of.styles:
                local_parameters(part)
            wrapped = replicated(part, self.mesh["dp"], of.bucket_mib)
        if len(of.stages) > 1:
            part.connect()
        if of.recompute == ["stages"]:
            _recompute(part)
        return wrapped

    def _schedule(self) -> Any:
        """Return the schedule of torch, or one that runs rows."""
        group, of = self.mesh.get_group("pp"), self.of
        stages = []
        for i, part in self.parts.items():
            before = () if i == 0 else (_meta(of.sent[i - 1], True),)
            stages.append(
                PipelineStage(
                    part, i, len(of.stages), self.device, group=group, input_args=before,
                    output_args=_meta(of.sent[i], True),
                )
            )  # fmt: skip
        loss = partial(_loss, self.loss)
        if of.schedule in ("1F1B", "GPipe"):
            return schedules.get_schedule_class(of.schedule)(stages[0], of.microbatches, loss_fn=loss)
        if "\n" not in of.schedule:
            return schedules.get_schedule_class(of.schedule)(stages, of.microbatches, loss_fn=loss)
        made = schedules._PipelineScheduleRuntime(stages, of.microbatches, loss_fn=loss)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "schedule.csv")
            with open(path, "w") as file:
                file.write(of.schedule.strip() + "\n")
            made._load_csv(path)
        return made

    def _pipeline_step(self) -> list[Any]:
        losses: list[Any] = []
        inputs, keywords, target = self._own(range(self.of.microbatches))
        batch = {**dict(zip(self.names, inputs, strict=True)), **keywords}
        last = len(self.of.stages) - 1 in self.parts
        assert self.schedule is not None
        with self._context():
            more = {"target": target, "losses": losses} if last else {}
            self.schedule.step(**batch, return_outputs=False, **more)
        return [loss.detach() for loss in losses]

    def _microbatch_step(self, k: int) -> Any:
        """Run one micro-batch through the whole model; replicas reduce as the plan says."""
        of, last, part = self.of, k == self.of.microbatches - 1, self.parts[0]
        apart: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if of.zero:
            part.set_requires_gradient_sync(last or not of.accumulate)
            part.set_reshard_after_backward(last or not of.keep)
        elif hasattr(part, "no_sync") and not last:
            apart = part.no_sync()
        inputs, keywords, target = self._own([k])
        with apart, self._context():
            loss = _loss(self.loss, part(*inputs, **keywords), target)
            (loss / of.microbatches).backward()
        return loss.detach()

    @contextlib.contextmanager
    def _context(self) -> Any:
        """Products in the plan's precision, and a loss of logits that ranks share."""
        with contextlib.ExitStack() as stack:
            if self.of.precision == "bf16-mixed":
                stack.enter_context(torch.autocast(self.device.type, torch.bfloat16))
            if "vocabulary" in self.of.styles.values():
                stack.enter_context(loss_parallel())
            yield

    def _own(self, microbatches: Sequence[int]) -> Any:
        """Return the samples of some micro-batches of this replica."""
        of, at = self.of, self.at
        replica = at["replica"] * of.grid["shard"] + at["shard"] if "shard" in at else at.get("dp", 0)
        first = (replica * of.microbatches + microbatches[0]) * of.microbatch
        rows = slice(first, first + len(microbatches) * of.microbatch)

        def cut(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            value = value[rows].to(self.device)
            return value.to(torch.bfloat16) if of.precision == "bf16" and value.is_floating_point() else value

        return pytree.tree_map(cut, (self.inputs, self.keywords, self.target))

    def _groups_of_tied(self) -> list[Any]:
        """Make the group of each parameter that stages of several ranks hold."""
        found, grid = [], torch.tensor(self.of.ranks).reshape(tuple(self.of.grid.values()))
        for places in self.tied:
            ranks = sorted({self.of.stage_ranks[stage] for stage, _ in places})
            lines = grid.movedim(list(self.of.grid).index("pp"), -1).reshape(-1, grid.shape[self._axis("pp")])
            groups = [dist.new_group(line[ranks].tolist()) for line in lines] if len(ranks) > 1 else []
            mine = [line[ranks].tolist() for line in lines]
            found.append(next((g for g, line in zip(groups, mine, strict=False) if dist.get_rank() in line), None))
        return found

    def _axis(self, name: str) -> int:
        return list(self.of.grid).index(name)

    def _reduce_tied(self) -> None:
        """Add up the gradients of what several stages hold, among the rank's own and between ranks."""
        for places, group in zip(self.tied, self.groups, strict=True):
            own = [_parameter(self.modules[stage], path) for stage, path in places if stage in self.modules]
            grads = [_local(parameter.grad) for parameter in own]
            for other in grads[1:]:
                grads[0] += other
            if grads and group is not None:
                dist.all_reduce(grads[0], group=group)
            for other in grads[1:]:
                other.copy_(grads[0])


def _example(made: Any) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any], Any, Any]:
    """Return model, arguments, keywords, target and loss of what a factory made: an object or a tuple."""
    if hasattr(made, "model"):
        return made.model, tuple(made.inputs), dict(made.keywords), made.target, made.loss
    model, inputs, target, loss = (*made, None, None)[:4]
    if len(made) == 3 and callable(target) and not isinstance(target, torch.Tensor):
        target, loss = None, target
    if isinstance(inputs, Mapping):
        return model, (), dict(inputs), target, loss
    return model, tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {}, target, loss


def _loss(loss: Callable[..., Any] | None, output: Any, target: Any) -> Any:
    """Return the loss of an output, the model's own where none is given."""
    if loss is not None:
        return loss(output, target)
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return output.mean() if own is None else own


def _tied(model: nn.Module, stages: Sequence[Sequence[str]]) -> list[list[tuple[int, str]]]:
    """Return the stages and paths of each parameter that several stages hold."""
    paths: dict[nn.Parameter, list[str]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        paths.setdefault(parameter, []).append(path)
    found = []
    for held in paths.values():
        places: dict[int, str] = {}
        for path in held if len(held) > 1 and len(stages) > 1 else ():
            for i, layers in enumerate(stages):
                if any(path.startswith(f"{layer}.") for layer in layers):
                    places.setdefault(i, path)
        if len(places) > 1:
            found.append(sorted(places.items()))
    return found


def _parameter(stage: Any, path: str) -> Any:
    module, _, name = path.rpartition(".")
    return stage.model.get_submodule(module)._parameters[name]


def _local(value: Any) -> Any:
    return value.to_local() if isinstance(value, DTensor) else value


def _recompute(module: nn.Module) -> None:
    """Keep of a module what it reads alone, and run its forward again before its backward."""
    module.forward = partial(checkpoint, module.forward, use_reentrant=False)


def _meta(sent: tuple[str, Sequence[int]], gradient: bool) -> torch.Tensor:
    dtype, shape = sent
    return torch.empty(list(shape), dtype=getattr(torch, dtype), device="meta", requires_grad=gradient)


def main(plan: Mapping[str, Any], make: Callable[[int], Any]) -> None:
    """Run steps as one rank of `torchrun`, and say the loss of each."""
    parser = argparse.ArgumentParser(description=make.__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    settings = Settings(**plan)
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.backends.cuda.matmul.allow_tf32 = settings.precision == "tf32"
    dist.init_process_group("nccl" if gpu else "gloo")
    if dist.get_world_size() != len(settings.ranks):
        raise SystemExit(f"the plan is for {len(settings.ranks)} ranks, torchrun started {dist.get_world_size()}")
    torch.manual_seed(asked.seed)  # all ranks make the same model and batch, of which each takes its own
    replicas = len(settings.ranks) // (settings.grid.get("pp", 1) * settings.grid.get("tp", 1))
    made = make(replicas * settings.microbatches * settings.microbatch)
    trainer = Trainer(settings, made, "cuda" if gpu else "cpu", asked.lr)
    for step in range(asked.steps):
        loss = trainer.step()
        told: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(told, loss)
        found = [one for one in told if one is not None]
        if dist.get_rank() == 0:
            print(f"step {step} loss {sum(found) / len(found):.9g}", flush=True)
    dist.destroy_process_group()
