"""Machines by name: what builders and the catalog make of published descriptions, each with its source.

Where a machine is several nodes, a number after its name says how many (``dgx_h100:4``); of a torus, its sizes
(``tpu_v4:4x4x4``). Bandwidths and latencies are the catalog's, and over links whose collectives others measured and
published what those showed (see `mpsim.topology.published`); calibrate a preset to have what your machine reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mpsim.documents import Provenance
from mpsim.errors import MpsimError
from mpsim.topology.catalog import topology_device, wire
from mpsim.topology.grids import switch, torus
from mpsim.topology.laying import make_devices
from mpsim.topology.model import Link, Topology
from mpsim.topology.networks import nodes
from mpsim.topology.published import with_published
from mpsim.topology.wire import Wire

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A machine.

    Attributes
    ----------
    about, source : str
        What it is, and where that is written.
    make : callable
        ``(*sizes) -> Topology``.
    sizes : tuple of int
        By default.
    """

    about: str
    source: str
    make: Callable[..., Topology]
    sizes: tuple[int, ...] = (1,)

    def build(self, name: str, sizes: Sequence[int], *, costs: bool = True) -> Topology:
        """Return the topology, under a name.

        Parameters
        ----------
        sizes : sequence of int
            None for those by default.
        costs : bool
            Whether its links have what collectives were published to cost over such.

        Examples
        --------
        >>> len(PRESETS["dgx_h100"].build("two", (2,)).devices)
        16
        """
        if sizes and len(sizes) != len(self.sizes):
            raise MpsimError(f"{name!r} has {len(sizes)} sizes, it takes {len(self.sizes)}: {self.about}")
        if min(sizes, default=1) < 1:
            raise MpsimError(f"{name!r} has a size of {min(sizes)}, expected 1 or more")
        made = self.make(*(sizes or self.sizes))
        made = with_published(made) if costs else made
        return replace(made, name=name, provenance=Provenance(source=self.source))


# The wires of a hybrid cube mesh: GPUs i and j with so many NVLinks between them.
_CUBE_MESH = {
    (0, 1): 1, (0, 2): 1, (0, 3): 2, (0, 4): 2, (1, 2): 2, (1, 3): 1, (1, 5): 2, (2, 3): 2, (2, 6): 1, (3, 7): 1,
    (4, 5): 1, (4, 6): 1, (4, 7): 2, (5, 6): 2, (5, 7): 1, (6, 7): 2,
}  # fmt: skip


def _dgx1() -> Topology:
    """Lay each NVLink of 25 GB/s as far as transfers reach it; a pair without one goes by another GPU."""
    whole = wire("nvlink2")
    made = make_devices([f"d{i}" for i in range(8)], "V100-SXM2-32GB", None)
    links: list[Link] = []
    for (a, b), count in _CUBE_MESH.items():
        one = Wire(whole.bandwidth_bytes_per_s * count / 6, whole.latency_s, whole.type)
        links += one.pair(f"d{a}", f"d{b}")
    return Topology(name="dgx1_v100", devices=made, links=tuple(links))


def _box(n: int, device: str, inside: str, between: str, reduces: bool, per_node: int = 8) -> Topology:
    """Return nodes behind one switch each, and each device behind a card of its own; one node without cards."""
    if n == 1:
        made = switch(per_node, link=inside, device=device)
    else:
        made = nodes(n, per_node=per_node, inside=inside, between=between, device=device)
    inner = tuple(name for name in made.switches if name.endswith("switch"))
    return replace(made, reducing=inner if reduces else ())


def _shared(n: int, device: str, inside: str, between: str, per_node: int, nics: int) -> Topology:
    """Return nodes whose devices share network cards; one node without cards."""
    if n == 1:
        return switch(per_node, link=inside, device=device)
    return nodes(n, per_node=per_node, inside=inside, between=between, nics=nics, device=device)


def _pcie_box(device: str) -> Topology:
    """Join pairs of GPUs by a PCIe switch, two pairs by a socket's host bridge, two sockets by their own link.

    Each level has a type of its own, so that logs over 2, 4 and 8 GPUs calibrate one each.
    """
    port = wire("pcie4_x16")
    made = make_devices([f"d{i}" for i in range(8)], device, None)
    links: list[Link] = []
    for i in range(8):
        links += port.end().pair(f"d{i}", f"plx{i // 2}")
    for i in range(4):
        links += Wire(port.bandwidth_bytes_per_s, 0.0, "pcie_host").pair(f"plx{i}", f"cpu{i // 2}")
    links += Wire(port.bandwidth_bytes_per_s, 0.0, "socket").pair("cpu0", "cpu1")
    return Topology(
        name="pcie_box",
        devices=made,
        switches=(*(f"plx{i}" for i in range(4)), "cpu0", "cpu1"),
        links=tuple(links),
    )


def _ethernet(n: int) -> Topology:
    return switch(n, link="eth_10g", device=topology_device("T4"))


PRESETS: dict[str, Preset] = {
    "dgx1_v100": Preset(
        about="DGX-1: 8 V100 in a hybrid cube mesh of NVLink 2",
        source="NVIDIA DGX-1 With Tesla V100 System Architecture, WP-08437-002, figure 4",
        make=_dgx1,
        sizes=(),
    ),
    "dgx_a100": Preset(
        about="nodes of 8 A100 80 GB on NVSwitch, a 200 Gbit/s InfiniBand card for each",
        source="NVIDIA DGX A100 System Architecture, WP-10083-001: 8 ConnectX-6 HDR for compute",
        make=lambda n: _box(n, "A100-SXM4-80GB", "nvlink3", "ib_hdr", reduces=False),
    ),
    "dgx_h100": Preset(
        about="nodes of 8 H100 on NVSwitch that reduces, a 400 Gbit/s InfiniBand card for each",
        source="NVIDIA DGX H100/H200 User Guide: 8 ConnectX-7 NDR for compute; third-generation NVSwitch with SHARP",
        make=lambda n: _box(n, "H100-SXM5-80GB", "nvlink4", "ib_ndr", reduces=True),
    ),
    "dgx_h200": Preset(
        about="nodes of 8 H200 on NVSwitch that reduces, a 400 Gbit/s InfiniBand card for each",
        source="NVIDIA DGX H100/H200 User Guide",
        make=lambda n: _box(n, "H200-SXM-141GB", "nvlink4", "ib_ndr", reduces=True),
    ),
    "dgx_b200": Preset(
        about="nodes of 8 B200 on NVSwitch that reduces, a 400 Gbit/s InfiniBand card for each",
        source="NVIDIA DGX B200 User Guide: 8 ConnectX-7 NDR for compute",
        make=lambda n: _box(n, "B200-SXM", "nvlink5", "ib_ndr", reduces=True),
    ),
    "gb200_nvl72": Preset(
        about="racks of 72 GB200 on NVSwitch that reduces, a 400 Gbit/s InfiniBand card for each",
        source="NVIDIA GB200 NVL72 product page: 130 TB/s of NVLink over 72 GPUs; ConnectX-7 a GPU",
        make=lambda n: _box(n, "GB200", "nvlink5", "ib_ndr", reduces=True, per_node=72),
    ),
    "pcie_box": Preset(
        about="8 L40S on PCIe 4: pairs on switches, two pairs a socket, two sockets",
        source="usual dual-root layout of such servers (nvidia-smi topo -m: PIX, NODE, SYS); check your own",
        make=lambda: _pcie_box("L40S"),
        sizes=(),
    ),
    "tpu_v4": Preset(
        about="TPU v4 in a 3-D torus",
        source="Jouppi et al., TPU v4, https://arxiv.org/abs/2304.01433: 4x4x4 blocks, 6 links a chip",
        make=lambda *sizes: torus(*sizes, link="ici_v4", device="TPUv4"),
        sizes=(4, 4, 4),
    ),
    "tpu_v5p": Preset(
        about="TPU v5p in a 3-D torus",
        source="https://cloud.google.com/tpu/docs/v5p: 4x4x4 blocks, 6 links a chip",
        make=lambda *sizes: torus(*sizes, link="ici_v5p", device="TPUv5p"),
        sizes=(4, 4, 4),
    ),
    "aws_p4d": Preset(
        about="p4d.24xlarge: 8 A100 40 GB on NVSwitch, 4 EFA cards of 100 Gbit/s",
        source="https://aws.amazon.com/ec2/instance-types/p4: 400 Gbit/s, EFA",
        make=lambda n: _shared(n, "A100-SXM4-40GB", "nvlink3", "ib_edr", 8, 4),
    ),
    "aws_p5": Preset(
        about="p5.48xlarge: 8 H100 on NVSwitch, 3200 Gbit/s of EFA",
        source="https://aws.amazon.com/ec2/instance-types/p5: 3200 Gbit/s, EFA v2",
        make=lambda n: _box(n, "H100-SXM5-80GB", "nvlink4", "efa_v2_p5", reduces=True),
    ),
    "gcp_a3_high": Preset(
        about="a3-highgpu-8g: 8 H100 on NVSwitch, 4 cards of 200 Gbit/s with GPUDirect-TCPX",
        source="https://cloud.google.com/compute/docs/gpus: 1,000 Gbit/s in all, 800 for GPUs",
        make=lambda n: _box(n, "H100-SXM5-80GB", "nvlink4", "gcp_tcpx_a3_high", reduces=True),
    ),
    "azure_nd_a100": Preset(
        about="ND96amsr_A100_v4: 8 A100 80 GB on NVSwitch, a 200 Gbit/s InfiniBand card for each",
        source="https://learn.microsoft.com/azure/virtual-machines: ND A100 v4, 1.6 Tbit/s",
        make=lambda n: _box(n, "A100-SXM4-80GB", "nvlink3", "ib_hdr", reduces=False),
    ),
    "ethernet": Preset(
        about="machines with one T4 each on one 10 Gbit/s Ethernet switch",
        source="catalog: T4, eth_10g",
        make=_ethernet,
        sizes=(8,),
    ),
}
