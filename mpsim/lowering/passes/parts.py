"""Parts: gradients of which ranks that share a sequence have parts each are added up, once a step."""

from __future__ import annotations

from mpsim.lowering.instructions import Collective, Compute, Instructions, Parts, Wait
from mpsim.lowering.model import Lowering

__all__ = ["parts"]


def parts(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put an all-reduce of a stage's gradients of parts, all at once, behind the replicas' and before the update.

    So does Megatron-LM (``finalize_model_grads``); of gradients that replicas shard it is of the shards.
    """
    if not lowering.plan.split.sequence:
        return instructions
    found: Instructions = []
    for one in instructions:
        if isinstance(one, Compute) and one.pass_kind == "U":
            stage = lowering.stages[one.stage]
            sizes = {gradient.parameter: gradient.bytes for _, gradient in stage.gradients if gradient.partial}
            key = ("parts", one.stage, one.microbatch)
            if sizes:
                size = stage.sharded_bytes(sizes)
                found += [Collective(key, Parts(one.stage), "all_reduce", "tp", (), size, one.stage, -1), Wait((key,))]
        found.append(one)
    return found
