"""Machines by name: what builders and the catalog make of published descriptions, each with its source.

Where a machine is several nodes, a number after its name says how many (``dgx_h100:4``); of a torus, its sizes
(``tpu_v4:4x4x4``). What joins what is the cited page's, which was read. Bandwidths and latencies are the catalog's, and
over links whose collectives others measured and published what those showed (see `mpsim.topology.published`);
calibrate a preset to have what your machine reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mpsim.documents import Provenance
from mpsim.errors import MpsimError
from mpsim.topology.catalog import wire
from mpsim.topology.grids import product, switch
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


def _cube_mesh(prefix: str) -> list[Link]:
    """Lay each NVLink of 25 GB/s as far as transfers reach it; a pair without one goes by another GPU."""
    whole = wire("nvlink2")
    links: list[Link] = []
    for (a, b), count in _CUBE_MESH.items():
        one = Wire(whole.bandwidth_bytes_per_s * count / 6, whole.latency_s, whole.type)
        links += one.pair(f"{prefix}{a}", f"{prefix}{b}")
    return links


def _cube_meshes(n: int, between: Wire | str, nics: int) -> Topology:
    """Return nodes of 8 V100 in a hybrid cube mesh that share network cards; one node without cards."""
    device = "V100-SXM2-32GB"
    if n == 1:
        made = make_devices([f"d{i}" for i in range(8)], device, None)
        return Topology(name="cube mesh", devices=made, links=tuple(_cube_mesh("d")))
    behind = nodes(n, per_node=8, inside="nvlink2", between=between, nics=nics, fabric="chain", device=device)
    meshes = [link for i in range(n) for link in _cube_mesh(f"n{i}.d")]
    return replace(behind, links=(*meshes, *(link for link in behind.links if link.type != "nvlink2")))


def _card(name: str, devices: int) -> Wire:
    """Return a network card that so many devices share, of a link whose bandwidth is the catalog's for one of them."""
    each = wire(name)
    return replace(each, bandwidth_bytes_per_s=each.bandwidth_bytes_per_s * devices)


def _box(
    n: int,
    device: str,
    inside: str,
    between: Wire | str,
    *,
    reduces: bool = False,
    per_node: int = 8,
    nics: int | None = None,
) -> Topology:
    """Return nodes behind one switch each, and devices behind cards, of their own or shared; one node without cards."""
    if n == 1:
        made = switch(per_node, link=inside, device=device)
    else:
        made = nodes(n, per_node=per_node, inside=inside, between=between, nics=nics or per_node, device=device)
    inner = tuple(name for name in made.switches if name.endswith("switch"))
    return replace(made, reducing=inner if reduces else ())


def _tpus(sizes: Sequence[int], link: str, device: str) -> Topology:
    """Return a slice of TPUs: a torus where it is of whole cubes of 4x4x4, for only these are wrapped; else a mesh."""
    kind = "chain" if any(size % 4 for size in sizes) else "ring"
    return product(*sizes, kinds=[kind] * len(sizes), links=[link] * len(sizes), device=device)


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


_TPU_CUBES = "repository jax-ml/scaling-book, tpus.md: 6 neighbours, links wrapped on whole 4x4x4 cubes only"
_CLOUD_TABLE = "repository stas00/ml-engineering at 744d01e, network/README.md, table of nodes"

PRESETS: dict[str, Preset] = {
    "dgx1_v100": Preset(
        about="nodes of 8 V100 in a hybrid cube mesh of NVLink 2, a 100 Gbit/s InfiniBand card for every two",
        source="repository pytorch/pytorch, benchmarks/distributed/ddp/README.md: nvidia-smi topo -m of a DGX-1"
        " with V100, 4 cards of 100 Gbit/s",
        make=lambda n: _cube_meshes(n, "ib_edr", 4),
    ),
    "dgx_a100": Preset(
        about="nodes of 8 A100 80 GB on NVSwitch, a 200 Gbit/s InfiniBand card for each",
        source="repository mlcommons/inference_results_v3.0, closed/H3C/documentation/start_from_device/dgx-a100.md:"
        " two ConnectX-6 for every two GPUs, over 21 GB/s a GPU; 200 Gbit/s is the catalog's ib_hdr",
        make=lambda n: _box(n, "A100-SXM4-80GB", "nvlink3", "ib_hdr"),
    ),
    "dgx_h100": Preset(
        about="nodes of 8 H100 on NVSwitch that reduces, a 400 Gbit/s InfiniBand card for each",
        source="repository mlcommons/inference_results_v3.1, closed/NVIDIA/documentation/start_from_device/dgx-h100.md:"
        " a ConnectX-7 NDR 400 for each GPU",
        make=lambda n: _box(n, "H100-SXM5-80GB", "nvlink4", "ib_ndr", reduces=True),
    ),
    "dgx_h200": Preset(
        about="nodes of 8 H200 on NVSwitch that reduces, a 400 Gbit/s InfiniBand card for each",
        source="https://docs.nvidia.com/dgx-basepod/reference-architecture-infrastructure-foundation-enterprise-ai/latest/"
        "core-components.html: DGX H200 and H100, 8 single-port ConnectX-7 up to 400 Gb/s, 4 NVSwitch",
        make=lambda n: _box(n, "H200-SXM-141GB", "nvlink4", "ib_ndr", reduces=True),
    ),
    "dgx_b200": Preset(
        about="nodes of 8 B200 on NVSwitch that reduces, a 400 Gbit/s InfiniBand card for each",
        source="https://docs.nvidia.com/dgx/dgxb200-user-guide/introduction-to-dgxb200.html: 8 ConnectX-7 of"
        " up to 400 Gbps",
        make=lambda n: _box(n, "B200-SXM", "nvlink5", "ib_ndr", reduces=True),
    ),
    "gb200_nvl72": Preset(
        about="racks of 72 GB200 on NVSwitch that reduces, a 400 Gbit/s InfiniBand card for each",
        source="https://docs.nvidia.com/dgx/dgxgb200-user-guide/networking.html: 72 GPUs on one NVLink with SHARP;"
        " repository stas00/ml-engineering at 744d01e, network/README.md: 4 ConnectX-7 of 400 Gbps on a tray of 4 GPUs",
        make=lambda n: _box(n, "GB200", "nvlink5", "ib_ndr", reduces=True, per_node=72),
    ),
    "pcie_box": Preset(
        about="8 L40S on PCIe 4: pairs on switches, two pairs a socket, two sockets",
        source="repository gqcn/johns-blog, docs/docs/1000-AI技术/800-基础架构/700-算力调度/"
        "3000-CPU亲和性与NUMA亲和性调度.md: nvidia-smi topo -m of a server of 8 (PIX, NODE, SYS); that the cards are"
        " L40S, and each link's bandwidth, are the catalog's; check your own",
        make=lambda: _pcie_box("L40S"),
        sizes=(),
    ),
    "tpu_v4": Preset(
        about="TPU v4 in a 3-D torus; a mesh where a size is no multiple of 4",
        source=f"https://docs.cloud.google.com/tpu/docs/v4; {_TPU_CUBES}, 45 GB/s a link",
        make=lambda *sizes: _tpus(sizes, "ici_v4", "TPUv4"),
        sizes=(4, 4, 4),
    ),
    "tpu_v5p": Preset(
        about="TPU v5p in a 3-D torus; a mesh where a size is no multiple of 4",
        source=f"https://docs.cloud.google.com/tpu/docs/v5p: 1200 GB/s a chip both ways, 100 a link; {_TPU_CUBES}; its"
        " earlier 90 GB/s a link is the catalog's",
        make=lambda *sizes: _tpus(sizes, "ici_v5p", "TPUv5p"),
        sizes=(4, 4, 4),
    ),
    "aws_p3dn": Preset(
        about="p3dn.24xlarge: 8 V100 32 GB in a hybrid cube mesh of NVLink 2, one EFA card of 100 Gbit/s for all",
        source="repository awsdocs/amazon-sagemaker-developer-guide, doc_source/distributed-training.md: up to 100"
        " gigabits; that its NVLinks are laid as a DGX-1's was not found written; what of the card is reached is the"
        " catalog's efa_v1_p4d",
        make=lambda n: _cube_meshes(n, _card("efa_v1_p4d", 2), 1),
    ),
    "aws_p4d": Preset(
        about="p4d.24xlarge: 8 A100 40 GB on NVSwitch, an EFA card of 100 Gbit/s for every two",
        source=f"repository aws/aws-ofi-nccl, topology/p4d-24xl-topo.xml: 2 GPUs and a card on each of 4 PCIe switches;"
        f" {_CLOUD_TABLE}: 4 of 100 Gbps",
        make=lambda n: _box(n, "A100-SXM4-40GB", "nvlink3", _card("efa_v1_p4d", 2), nics=4),
    ),
    "aws_p5": Preset(
        about="p5.48xlarge: 8 H100 on NVSwitch that reduces, 4 EFA cards of 100 Gbit/s for each, taken as one of 400",
        source="repository aws/aws-ofi-nccl, topology/p5.48xl-topo.xml: a GPU and 4 cards of 100 Gbit/s on each of 8"
        " PCIe switches",
        make=lambda n: _box(n, "H100-SXM5-80GB", "nvlink4", "efa_v2_p5", reduces=True),
    ),
    "gcp_a3_high": Preset(
        about="a3-highgpu-8g: 8 H100 on NVSwitch that reduces, a card of 200 Gbit/s with GPUDirect-TCPX for every two",
        source=f"{_CLOUD_TABLE}: 4 of 200 Gbps for GPUs",
        make=lambda n: _box(n, "H100-SXM5-80GB", "nvlink4", _card("gcp_tcpx_a3_high", 2), reduces=True, nics=4),
    ),
    "gcp_a3_mega": Preset(
        about="a3-megagpu-8g: 8 H100 on NVSwitch that reduces, a card of 200 Gbit/s with GPUDirect-TCPXO for each",
        source=f"{_CLOUD_TABLE}: 8 of 200 Gbps for GPUs; what TCPXO reaches of them and its latency are the catalog's"
        " of TCPX, gcp_tcpx_a3_high, for want of its own",
        make=lambda n: _box(n, "H100-SXM5-80GB", "nvlink4", _card("gcp_tcpx_a3_high", 2), reduces=True),
    ),
    "azure_nd_a100": Preset(
        about="ND96amsr_A100_v4: 8 A100 80 GB on NVSwitch, a 200 Gbit/s InfiniBand card for each",
        source="repository MicrosoftDocs/azure-docs, articles/virtual-machines/ndm-a100-v4-series.md:"
        " 8 x 200 Gigabit HDR",
        make=lambda n: _box(n, "A100-SXM4-80GB", "nvlink3", "ib_hdr"),
    ),
    "azure_nd_h100": Preset(
        about="ND96isr_H100_v5: 8 H100 on NVSwitch that reduces, a 400 Gbit/s InfiniBand card for each",
        source="repository MicrosoftDocs/azure-compute-docs, articles/virtual-machines/sizes/gpu-accelerated/includes/"
        "ndh100v5-series-summary.md: a dedicated 400 Gbps Quantum-2 CX7 for each GPU",
        make=lambda n: _box(n, "H100-SXM5-80GB", "nvlink4", "ib_ndr", reduces=True),
    ),
    "ethernet": Preset(
        about="machines with one T4 each on one 10 Gbit/s Ethernet switch",
        source="no machine's: T4 and eth_10g are the catalog's, the link's an estimate (confidence C:"
        " recalled, not retrieved)",
        make=lambda n: switch(n, link="eth_10g", device="T4"),
        sizes=(8,),
    ),
}
