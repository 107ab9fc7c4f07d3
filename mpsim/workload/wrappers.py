"""What is wrapped around a model, taken off: data-parallel, sharding and compiling wrappers, at the top and inside."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mpsim.errors import MpsimError

__all__ = ["eagerly", "plain_name", "unwrapped"]

# Where wrappers of data parallelism are from: their modules with a child `module` only call it.
_PACKAGES = (
    "torch.nn.parallel.",
    "torch.distributed.",
    "accelerate.",
    "apex.parallel.",
    "colossalai.",
    "deepspeed.",
    "fairscale.",
    "megatron.core.distributed.",
)
# Hooks that gather, exchange or turn into DTensors.
_HOOKS = ("torch.distributed.fsdp", "torch.distributed.tensor", "torch.distributed._composable.replicate")
_INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "module")  # by what name a wrapper holds the model
_PREFIX = re.compile(r"^(module\.)+|(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def plain_name(name: str) -> str:
    """Return the name of a wrapped model's parameter or module without what wrappers put into it.

    Examples
    --------
    >>> plain_name("module._orig_mod.layers.0.weight"), plain_name("blocks.1._orig_mod.module.bias")
    ('layers.0.weight', 'blocks.1.module.bias')
    """
    while (shorter := _PREFIX.sub("", name)) != name:
        name = shorter
    return name


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Let everything that torch.compile was asked to compile run as it is written.

    Examples
    --------
    >>> double = torch.compile(lambda x: 2 * x)
    >>> with eagerly():
    ...     double(torch.ones(1))
    tensor([2.])
    """
    with torch.compiler.set_stance("force_eager"):
        yield


def unwrapped(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the model inside its wrappers, and a sentence for each kind of wrapper that was taken off.

    The given model stays as it is: a module that holds a wrapper somewhere inside is returned as a copy of its own
    with the same parameters and buffers.

    Raises
    ------
    MpsimError
        The parameters are spread over several ranks: no rank has the model.

    Examples
    --------
    >>> model, notes = unwrapped(torch.nn.DataParallel(torch.nn.Linear(2, 1)))
    >>> type(model).__name__, notes
    ('Linear', ('DataParallel was taken off: one replica was traced',))
    """
    _check_whole(model)
    notes: dict[str, None] = {}
    with _flat_parameters_apart(model):
        plain = _plain(model, notes, {})
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in plain.modules()):
        notes[_EAGER] = None
    return plain, tuple(filter(None, notes))


_EAGER = "torch.compile was taken off: the layers ran as they are written, what compiling saves is not in their times"


_GATHERS = "was taken off: its gathers and reduce-scatters are in the plan, not in the trace"
_REDUCES = "was taken off: its all-reduces are in the plan, not in the trace"


def _plain(module: nn.Module, notes: dict[str, None], done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in done:
        return done[module]
    done[module] = module  # for a child that holds its parent
    inner = _inner(module)
    if inner is not None:
        notes[_note(module)] = None
        found = _plain(inner, notes, done)
    else:
        children = {name: child and _plain(child, notes, done) for name, child in module._modules.items()}
        changed = any(children[name] is not child for name, child in module._modules.items())
        if sharded := _is_sharded(module):
            notes[_note_of_sharding(module)] = None
        found = _copied(module, children) if changed or sharded else module
    done[module] = found
    return found


def _inner(module: nn.Module) -> nn.Module | None:
    """Return what a wrapper holds; None for what is no wrapper."""
    home = f"{type(module).__module__}."
    known = home.startswith(_PACKAGES) or isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel)
    if not (known or home.startswith("torch._dynamo.")):
        return None
    return next((module._modules[name] for name in _INSIDE if module._modules.get(name) is not None), None)


def _note(module: nn.Module) -> str:
    name = type(module).__name__
    if "_orig_mod" in module._modules:
        return _EAGER
    if "_fsdp_wrapped_module" in module._modules:
        return f"{name} {_GATHERS}"
    if isinstance(module, nn.DataParallel):
        return f"{name} was taken off: one replica was traced"
    if "DistributedDataParallel" in name:
        return f"{name} {_REDUCES}"
    return f"{name} was taken off: the model inside it was traced, without what the wrapper does in a step"


def _note_of_sharding(module: nn.Module) -> str:
    if any(map(_is_dtensor, module._parameters.values())):
        if getattr(module, "_is_fsdp_managed_module", False):
            return f"fully_shard {_GATHERS}"
        return "a device mesh of one was taken off: its parameters were traced as plain tensors"
    replicated = any(_home(hook).startswith(_HOOKS[-1]) for hook in _hooks(module).values())
    return f"replicate {_REDUCES}" if replicated else ""


# Sharded parameters


def _check_whole(model: nn.Module) -> None:
    """Refuse a model of which this rank has only a part."""
    for module in model.modules():
        own = module._parameters.values()
        ranks = [item.device_mesh.size() for item in own if _is_dtensor(item)]
        if "_fsdp_wrapped_module" in module._modules:
            ranks.append(getattr(module, "world_size", 1))
        if any(hasattr(item, "ds_shape") for item in own):  # DeepSpeed's ZeRO-3
            ranks.append(max(2, torch.distributed.get_world_size()))
        if max(ranks, default=1) > 1:
            raise MpsimError(
                f"parameters of {type(module).__name__} are spread over {max(ranks)} ranks: trace the model before it"
                " is wrapped or sharded"
            )


def _is_dtensor(value: Any) -> bool:
    tensors = sys.modules.get("torch.distributed.tensor")  # not imported: there is none
    return tensors is not None and isinstance(value, tensors.DTensor)


def _is_sharded(module: nn.Module) -> bool:
    """Whether a module's own parameters or hooks are those of FSDP, fully_shard or a device mesh."""
    own = (*module._parameters.values(), *module._buffers.values())
    managed = getattr(module, "_is_fsdp_managed_module", False)
    return managed or any(map(_is_dtensor, own)) or bool(_foreign_hooks(module))


def _class(module: nn.Module) -> type[nn.Module]:
    """Return a module's class as it was: fully_shard makes FSDPLinear(FSDPModule, Linear) of Linear."""
    kind = type(module)
    made = kind.__module__.startswith("torch.distributed.") and len(kind.__bases__) == 2
    return kind.__bases__[1] if made and not issubclass(kind.__bases__[0], nn.Module) else kind


def _copied(module: nn.Module, children: dict[str, Any]) -> nn.Module:
    """Return a module with other children, with plain parameters in place of sharded ones and without their hooks."""
    kind = _class(module)
    made = nn.Module.__new__(kind)
    made.__dict__.update(module.__dict__)
    foreign = _foreign_hooks(module)
    for name, value in module.__dict__.items():
        if name.startswith(("_forward_", "_backward_")) and isinstance(value, dict):
            made.__dict__[name] = type(value)((key, hook) for key, hook in value.items() if key not in foreign)
    own = module._parameters.items()
    made.__dict__["_modules"] = dict(children)
    made.__dict__["_buffers"] = {name: _local(value) for name, value in module._buffers.items()}
    made.__dict__["_parameters"] = {name: _local(value) for name, value in own if name != "_flat_param"}
    return made


def _local(value: Any) -> Any:
    """Return the whole of a tensor that one rank holds."""
    if not _is_dtensor(value):
        return value
    plain = value.detach().to_local()
    if isinstance(value, nn.Parameter):
        return nn.Parameter(plain, requires_grad=value.requires_grad)
    return plain


def _hooks(module: nn.Module) -> dict[int, Any]:
    return {**module._forward_hooks, **module._forward_pre_hooks, **module._backward_hooks}


def _foreign_hooks(module: nn.Module) -> list[int]:
    """Return the keys of hooks that exchange or gather."""
    return [key for key, hook in _hooks(module).items() if _home(hook).startswith(_HOOKS)]


def _home(hook: Any) -> str:
    owner = getattr(hook, "__self__", None)
    return str(type(owner).__module__ if owner is not None else getattr(hook, "__module__", ""))


@contextlib.contextmanager
def _flat_parameters_apart(model: nn.Module) -> Iterator[None]:
    """Show the parameters that FullyShardedDataParallel keeps in one flat tensor as those of their modules."""
    for module in model.modules():
        if hasattr(module, "reshard") and _class(module) is not type(module):
            module.reshard()  # what a forward without a backward left gathered
    with contextlib.ExitStack() as stack:
        if any("_fsdp_wrapped_module" in module._modules for module in model.modules()):
            from torch.distributed.fsdp import FullyShardedDataParallel

            stack.enter_context(FullyShardedDataParallel.summon_full_params(model, writeback=False))
        yield
