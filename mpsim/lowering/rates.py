"""What a sample of a workload is in tokens and in products, and how many of these its devices could do."""

from __future__ import annotations

from typing import NamedTuple

from mpsim.topology.catalog import device as catalog_device
from mpsim.topology.model import Topology
from mpsim.topology.reported import catalog_name
from mpsim.workload.model import Workload
from mpsim.workload.precision import product_rate
from mpsim.workload.split import WHOLE
from mpsim.workload.tokens import tokens_per_sample

__all__ = ["SampleRates", "sample_rates"]


class SampleRates(NamedTuple):
    """What tells samples a second as tokens a second, FLOP/s and MFU.

    Attributes
    ----------
    tokens_per_sample : int
        0 where samples are not sequences.
    flops_per_sample : int
        Of a forward and a backward, without what is computed again; 0 where no layer says.
    peak_flops_per_s : float
        Of a device, at the rate of the workload's precision; 0 where devices are unlike or in no catalog.
    """

    tokens_per_sample: int = 0
    flops_per_sample: int = 0
    peak_flops_per_s: float = 0.0


def sample_rates(workload: Workload, topology: Topology) -> SampleRates:
    """Return what a sample of a workload is, and what the topology's devices could do.

    Examples
    --------
    >>> from mpsim.topology.builders import switch
    >>> from mpsim.workload.model import Layer
    >>> work = Workload.chain("one", [Layer.given("a", forward_s=1.0, backward_s=2.0)])
    >>> sample_rates(work, switch(2, link="nvlink4", device="H100-SXM5-80GB"))
    SampleRates(tokens_per_sample=0, flops_per_sample=0, peak_flops_per_s=67000000000000.0)
    """
    costs = [next((one for one in layer.costs if one.split == WHOLE), None) for layer in workload.layers]
    whole = [cost for cost in costs if cost is not None]
    flops = sum(3 * cost.flops // cost.microbatch for cost in whole) if len(whole) == len(costs) else 0
    types = {node.type for node in topology.devices}
    listed = catalog_name(next(iter(types))) if len(types) == 1 else None
    peak = catalog_device(listed).peak_or_none(product_rate(workload.precision)) if listed else None
    return SampleRates(tokens_per_sample(workload), flops, peak or 0.0)
