"""How many tokens a sample of a workload has."""

from __future__ import annotations

from mpsim.workload.model import Workload

__all__ = ["tokens_per_sample"]


def tokens_per_sample(workload: Workload) -> int:
    """Return the length of the sequences that a model is fed and is to predict; 0 where it has none, or several.

    Tokens and targets are whole numbers [micro-batch, length], all of one length: images have none, and neither has a
    model whose encoder and decoder read sequences of unlike length.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> from mpsim.workload.tensors import Tensor
    >>> fed = [Tensor(name=name, producer="", consumers=("a",), shape=(4, 512), dtype="int64", role=name)
    ...        for name in ("input", "target")]
    >>> layers = (Layer.given("a", forward_s=1.0, backward_s=2.0),)
    >>> tokens_per_sample(Workload(name="w", layers=layers, tensors=tuple(fed), microbatch=4))
    512
    >>> tokens_per_sample(Workload(name="w", layers=layers, tensors=tuple(fed[:1]), microbatch=4))
    0
    """
    fed = [tensor for tensor in workload.tensors if not tensor.producer and "int" in tensor.dtype]
    shapes = {tensor.shape for tensor in fed}
    if {tensor.role for tensor in fed} != {"input", "target"} or len(shapes) != 1:
        return 0
    (shape,) = shapes
    return shape[1] if len(shape) == 2 and shape[0] == workload.microbatch else 0
