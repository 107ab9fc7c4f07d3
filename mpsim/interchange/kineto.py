"""Kineto traces, which ``torch.profiler`` writes, as workloads: the times of each layer, forward and backward.

A layer is a module (``with_stack=True``), or what ``record_function`` marks. Its forward is what runs inside it: the
operators of the processor, or where there are any the kernels that these launch on a device. Its backward is what
autograd runs for the operators of its forward, found by their sequence numbers
(https://docs.pytorch.org/docs/stable/autograd.html, ``emit_nvtx``: "Forward-backward correlation").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mpsim.calls import checked
from mpsim.documents import Provenance
from mpsim.errors import MpsimError
from mpsim.interchange.chrome import Around, Slice, read_trace, slices
from mpsim.interchange.kineto_layers import EVALUATE, Layers, layers_of
from mpsim.interchange.kineto_shapes import gradients_of, tensors_between
from mpsim.interchange.losses import Losses
from mpsim.interchange.recognise import is_kineto
from mpsim.workload.model import Cost, Fidelity, Gradient, Layer, Samples, Shard, Workload

__all__ = ["load_kineto"]

_KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCHES = ("cuda_runtime", "cuda_driver")
# Of profilers before torch 1.12.
_OLDER = {"Operator": "cpu_op", "Kernel": "kernel", "Runtime": "cuda_runtime", "Memcpy": "gpu_memcpy",
          "Memset": "gpu_memset"}  # fmt: skip
_At = tuple[int, str]  # a step and a layer


@checked
def load_kineto(path: str | Path, *, microbatch: int, depth: int = 1, name: str = "") -> tuple[Workload, Losses]:
    """Read the times of a model's layers from a trace of ``torch.profiler``, and list what it does not tell.

    Parameters
    ----------
    path : path
        What ``export_chrome_trace`` wrote, made with ``with_stack=True``, or of a model whose layers stand under
        ``record_function``; with ``record_shapes=True`` sizes are read too.
    microbatch : int
        Samples in each of the traced forward passes; a trace does not say so.
    depth : int
        How far below the outermost module layers stand; a module without modules is one wherever it stands.
    name : str
        Of the workload; by default the file's.

    Raises
    ------
    MpsimError
        Not a Kineto trace, or one without modules or marks, or without a backward pass.

    Examples
    --------
    >>> load_kineto("nowhere.json", microbatch=8)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: cannot read 'nowhere.json': No such file or directory
    """
    if microbatch < 1:
        raise MpsimError(f"microbatch is {microbatch}, expected 1 or more")
    if depth < 0:
        raise MpsimError(f"depth is {depth}, expected 0 (the whole model is one layer) or more")
    trace = read_trace(path)
    version = trace.get("schemaVersion")
    if version not in (None, 1):
        raise MpsimError(f"{path} has schemaVersion {version!r}, mpsim reads 1, which torch.profiler writes")
    # What cuts traces drops it.
    if version is None and not is_kineto(trace):
        raise MpsimError(f"{path} is no Kineto trace: it has no schemaVersion, and no event that torch.profiler writes")
    reader = _Reader(_of_today(slices(trace, path)), depth, str(path))
    layers = reader.workload_layers(microbatch)
    first = reader.layers.steps[0]
    if not first:
        raise MpsimError(f"{path}: its first step has no layer: profile whole training steps, or give another --depth")
    workload = Workload(
        name=name or Path(path).stem,
        layers=layers,
        tensors=tensors_between(
            list(first), [calls[0] for calls in first.values()], reader.inside, microbatch, reader.losses
        ),
        microbatch=microbatch,
        device=reader.device(trace),
        clock="profiler",
        provenance=Provenance(source=f"Kineto trace {Path(path).name}"),
    )
    return workload, reader.losses


class _Reader:
    """Attributes what ran to the layers whose it is."""

    def __init__(self, found: Sequence[Slice], depth: int, path: str) -> None:
        self.losses = Losses()
        self.layers: Layers = layers_of(found, depth, path, self.losses)
        self.operators = [one for one in found if one.category == "cpu_op"]
        self.inside = Around(self.operators)
        self.backward = [one for one in self.operators if one.name.startswith(EVALUATE)]
        if not self.backward:
            raise MpsimError(f"{path} holds no backward pass: profile whole training steps, forward and backward")
        self.path = path
        self.kernels = [one for one in found if one.category in _KERNELS]
        launch = next((one for one in found if one.category in _LAUNCHES and "LaunchKernel" in one.name), None)
        if launch is not None and not self.kernels:
            raise MpsimError(
                f"{path} launches kernels ({launch.name!r} at {launch.start_us} us) and holds none, whose times the"
                " layers' are: profile with ProfilerActivity.CUDA, and let the device finish"
            )
        launches = ((_number(one, "correlation"), one) for one in found if one.category in _LAUNCHES)
        self.launches: dict[int | None, Slice] = {number: one for number, one in launches if number is not None}
        self.gradients: dict[_At, list[Slice]] = defaultdict(list)
        self.owners = self._owners()
        self.forward_us: dict[_At, float] = defaultdict(float)
        self.backward_us: dict[_At, float] = defaultdict(float)
        self._attribute()
        self._note(found)

    def _owners(self) -> dict[Slice, _At]:
        """Return whose each of autograd's evaluations is: the layer whose forward has the operator of its number."""
        forward: dict[int | None, _At] = {}
        for one in self.operators:
            number, at = _number(one, "Sequence number"), self.layers.at(one)
            if number is not None and at is not None and not one.args.get("Fwd thread id"):
                # Operators that make no node carry the number of the next that does: the last of them is meant.
                forward[number] = at
        owners: dict[Slice, _At] = {}
        before: dict[tuple[str, str], _At | None] = {}
        for one in self.backward:
            owner = forward.get(_number(one, "Sequence number"))
            if one.name.endswith("AccumulateGrad"):
                # It has no number of its own: it follows the node that made its gradient.
                owner = before.get(one.thread)
                if owner is not None:
                    self.gradients[owner].append(one)
            before[one.thread] = owner
            if owner is not None:
                owners[one] = owner
        return owners

    def _attribute(self) -> None:
        """Add the time of each operator, or of each kernel where there are any, to the layer whose it is."""
        evaluations = Around(self.backward)
        outside_us = 0.0
        for one in self.kernels or _outermost(self.operators):
            begun = self.launches.get(_number(one, "correlation")) if self.kernels else one
            evaluation = None if begun is None else evaluations.of(begun)
            if evaluation is not None and evaluation in self.owners:
                self.backward_us[self.owners[evaluation]] += one.duration_us
            elif begun is not None and evaluation is None and (at := self.layers.at(begun)) is not None:
                self.forward_us[at] += one.duration_us
            else:
                outside_us += one.duration_us
        if outside_us:
            what = "kernels" if self.kernels else "operators"
            steps = len(self.layers.steps)
            self.losses.add(f"{what} of no layer (loss, optimizer, copies): {outside_us / 1e6:.6f} s in {steps} steps")

    def _note(self, found: Sequence[Slice]) -> None:
        for one in found:
            if one.category == "user_annotation" and one.name.startswith("Optimizer.step"):
                self.losses.add("optimizer steps: a trace tells none by layer, updates cost nothing", repr(one.name))
        self.losses.add("how backward divides into inputs' and weights': all of it counts as inputs'")
        self.losses.add("what layers keep for backward: activations take no memory")

    def _whole_steps(self) -> list[int]:
        """Return the steps that have a backward pass."""
        whole = [i for i, step in enumerate(self.layers.steps) if any(self.backward_us[i, name] for name in step)]
        for i in range(len(self.layers.steps)):
            if i not in whole:
                self.losses.add("forward passes without a backward pass: left out", f"number {i + 1}")
        return whole

    def workload_layers(self, microbatch: int) -> tuple[Layer, ...]:
        """Return each layer with one sample of each step."""
        steps = self._whole_steps()
        if not steps:
            raise MpsimError(
                f"{self.path}: no backward pass belongs to a layer: profile forward and backward of a step together"
            )
        made = []
        for name in dict.fromkeys(name for i in steps for name in self.layers.steps[i]):
            samples = Samples(
                forward_s=tuple(self.forward_us[i, name] / 1e6 for i in steps),
                backward_input_s=tuple(self.backward_us[i, name] / 1e6 for i in steps),
                backward_weight_s=(0.0,) * len(steps),
            )
            accumulated = self.gradients[steps[0], name]
            held = gradients_of(name, accumulated, self.inside)
            if len(held) < len(accumulated):
                self.losses.add("sizes of parameters: profile with record_shapes=True", repr(name))
            gradients = tuple(Gradient(parameter=one.name, bytes=one.bytes) for one in held)
            cost = Cost(microbatch=microbatch, samples=samples, fidelity=Fidelity.MEASURED)
            shard = Shard(parameters=held, gradients=gradients)
            made.append(Layer(name=name, kind=self.layers.kinds[name], shards=(shard,), costs=(cost,)))
        return tuple(made)

    def device(self, trace: dict[str, object]) -> str:
        """Return what the trace says it ran on."""
        properties = trace.get("deviceProperties")
        if self.kernels and isinstance(properties, list) and properties and isinstance(properties[0], dict):
            return str(properties[0].get("name", "gpu"))
        return "gpu" if self.kernels else "cpu"


def _of_today(found: Sequence[Slice]) -> list[Slice]:
    """Return slices with the names that today's profiler has for their categories."""
    return [replace(one, category=_OLDER[one.category]) if one.category in _OLDER else one for one in found]


def _number(one: Slice, name: str) -> int | None:
    """Return an argument that is a whole number; None for any other."""
    found = one.args.get(name)
    return found if isinstance(found, int) else None


def _outermost(operators: Sequence[Slice]) -> list[Slice]:
    """Return the operators that no other one of their thread calls."""
    until: dict[tuple[str, str], float] = {}
    kept = []
    for one in operators:
        if one.start_us >= until.get(one.thread, float("-inf")):
            until[one.thread] = one.end_us
            kept.append(one)
    return kept
