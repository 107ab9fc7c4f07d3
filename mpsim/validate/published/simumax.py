"""Llama shapes by Megatron-LM on one node of 8 B200, from measured efficiencies of products and collectives (SimuMax).

Kernels are at the efficiencies that were measured of their shapes, attention too, and collectives at what was fitted to
them; nothing overlaps. Replicas and stages are replayed, with a distributed optimizer; the ranks of a tensor- and
context-parallel group are folded into one. Replicas of the data and ranks that share a sequence share the optimizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from mpsim.errors import MpsimError
from mpsim.simulation.run import simulate
from mpsim.topology.costs import CollectiveCost, Regime
from mpsim.topology.grids import switch
from mpsim.topology.model import Topology
from mpsim.topology.wire import Wire
from mpsim.validate.published.decoder import Decoder, Exchanges, Shared, block, embedding, head
from mpsim.validate.published.folding import State, layer, plan_of, workload
from mpsim.validate.published.model import Adapter, Inputs, Outcome, Predictor
from mpsim.validate.published.table import Row, Table

__all__ = ["SIMUMAX"]

_GIB = 2**30
_SYSTEM, _DEVICE, _LINK = "b200_bf16_ceperm", "B200-SXM", "nvlink5"
_LAYOUTS = {"forward": ("TN", "False", "bf16"), "inputs": ("NN", "False", "bf16"), "weights": ("NT", "True", "fp32")}
_STATE = State()
# Bytes of a parameter that a step moves. Of each that a rank has: its gradient is zeroed (4), looked at for overflows
# (4) and scaled for the mean over replicas (8); of each that it updates: norm (4), clipping (8), Adam (28), and the
# copy from master weights (6).
_GRADIENT_BYTES, _SCALING_BYTES, _UPDATE_BYTES = 8, 8, 46


@dataclass(frozen=True, slots=True)
class _Measured:
    """Kernels and collectives as measured: FLOP/s by shape, bytes/s, and what a collective takes."""

    rows: Mapping[str, Row]
    width: int = 2

    def _row(self, path: str) -> Row:
        if path not in self.rows:
            raise MpsimError(f"no {path} was measured of {_SYSTEM}")
        return self.rows[path]

    def _of(self, path: str) -> float:
        """Return a rate, a part of one, or a scale: more than 0."""
        return self._row(path).number("value")

    def _delay_s(self, path: str) -> float:
        """Return a latency, which stands there in microseconds."""
        return self._row(path).real("value", 0) * 1e-6

    def _offset(self, path: str) -> float:
        return self._row(path).real("value")

    def _rate(self, kind: str, shape: str) -> float:
        """Return FLOP/s of a kind of kernel at a shape; of a shape that was not measured, its mean."""
        base = f"accelerator/op/{kind}"
        measured = f"{base}/accurate_efficient_factor/{shape}"
        efficiency = self._of(measured if measured in self.rows else f"{base}/efficient_factor")
        return 1e12 * self._of(f"{base}/tflops") * efficiency

    def product(self, rows: float, inner: float, columns: float, role: str = "forward", count: float = 1) -> float:
        """Return seconds of products of these shapes."""
        layout, accumulate, kind = _LAYOUTS[role]
        shape = (
            f"b=1, m={rows:g}, k={inner:g}, n={columns:g}, layout={layout}, accumulate={accumulate}, out_dtype={kind}"
        )
        shape = re.sub(r"=(\d+)\.0\b", r"=\1", _plain(rows, inner, columns, shape))
        return 2 * count * rows * inner * columns / self._rate("matmul", shape)

    def attention(self, shared: Shared, decoder: Decoder, backward: bool = False) -> float:
        """Return seconds of attention over the lower triangle; ranks that share a sequence have a part of the heads."""
        ranks = shared.tp * shared.cp
        heads, keys = decoder.heads / ranks, max(1.0, decoder.kv_heads / ranks)
        size = decoder.queries // decoder.heads
        shape = (
            f"batch={shared.batch}, seq_len={shared.sequence}, head_num={heads:.0f}, kv_head_num={keys:.0f},"
            f" qk_head_dim={size}, v_head_dim={size}, qkv_contiguous=True"
        )
        # The efficiencies count all pairs, the upper triangle too, which is why some are above 1.
        flops = 4 * shared.batch * heads * shared.sequence**2 * size
        kind = "sdp_bwd" if backward else "sdp_fwd"
        return flops * (2.5 if backward else 1) / self._rate(kind, shape)

    def passes(self, moved: float, kind: str = "") -> float:
        """Return seconds of a kernel that moves memory; the loss has a bandwidth of its own."""
        path = "accelerator/bandwidth/" + ("ce_fusion" if kind == "loss" else "default")
        rate = self._of(f"{path}/gbps") * _GIB * self._of(f"{path}/efficient_factor")
        return moved / rate + self._delay_s(f"{path}/latency_us")

    def exchanges(self, shared: Shared) -> Exchanges:
        """Return what collectives between ranks of the node take, as fitted."""
        ranks = {"tp": shared.tp, "cp": shared.cp}

        def seconds(kind: str, axis: str, bytes_: float) -> float:
            return self.collective(kind, ranks[axis], bytes_)

        return seconds

    def collective(self, kind: str, ranks: int, bytes_: float) -> float:
        """Return what a collective over so many ranks takes."""
        path = f"networks/high_intra_node/op/{ {'all_to_all': 'all2all'}.get(kind, kind) }"
        rate = self._of("networks/high_intra_node/bandwidth/gbps") * _GIB * self._of(f"{path}/efficient_factor")
        scale, offset = self._of(f"{path}/scale"), self._offset(f"{path}/offset")
        moved = bytes_ * scale * (1 + offset / ranks)
        return moved / rate + self._latency_s(path, ranks)

    def _latency_s(self, path: str, ranks: int) -> float:
        """Return the latency of a collective: one a step, and one in all."""
        steps = self._of(f"{path}/scale") * (ranks + self._offset(f"{path}/offset"))
        paths = (f"{path}/fixed_latency_us_by_comm_num/{ranks}", f"{path}/fixed_latency_us")
        fixed = next((self._delay_s(one) for one in paths if one in self.rows), 0.0)
        return self._delay_s(f"{path}/latency_us") * steps + fixed

    def node(self, devices: int) -> Topology:
        """Return the node: messages as they were measured between two, what replicas reduce and gather as fitted."""
        path = "networks/high_intra_node/op/"
        rate = self._of("networks/high_intra_node/bandwidth/gbps") * _GIB
        wire = Wire(rate * self._of(f"{path}p2p/efficient_factor"), self._delay_s(f"{path}p2p/latency_us"), _LINK, True)
        costs = tuple(
            CollectiveCost(
                link=_LINK, kind=kind, algorithm="ring", most_ranks=8, source="simumax_system_efficiencies.csv",
                regimes=(
                    Regime(
                        least_bytes=1, most_bytes=2.0**50, launch_s=self._delay_s(f"{path}{kind}/fixed_latency_us"),
                        step_s=self._delay_s(f"{path}{kind}/latency_us"),
                        bandwidth_bytes_per_s=rate * self._of(f"{path}{kind}/efficient_factor"),
                    ),
                ),
            )
            for kind in ("all_gather", "reduce_scatter", "all_reduce")
        )  # fmt: skip
        return replace(switch(devices, link=wire, device=_DEVICE), costs=costs)

    def update_s(self, parameters: float, replicas: int) -> float:
        """Return what updating takes all replicas together; each has so many parameters, and updates its part."""
        path = "accelerator/bandwidth/default"
        rate = self._of(f"{path}/gbps") * _GIB * self._of(f"{path}/efficient_factor")
        each = _GRADIENT_BYTES + (_SCALING_BYTES if replicas > 1 else 0) + _UPDATE_BYTES / replicas
        return replicas * each * parameters / rate


def _plain(rows: float, inner: float, columns: float, shape: str) -> str:
    """Write sizes without exponents."""
    for value in (rows, inner, columns):
        shape = shape.replace(f"={value:g},", f"={value:.0f},")
    return shape


def _open(table: Table, inputs: Inputs) -> Predictor:
    measured = inputs("simumax_system_efficiencies").rows
    others = {row.text("system").partition("_")[0] for row in measured if row.text("system") != _SYSTEM}
    if named := [other for other in others if other and other in table.name.lower()]:
        raise MpsimError(f"the file is of {named[0]}, by its name: rows of {_SYSTEM} are replayed")
    rates = _Measured({row.text("path"): row for row in measured if row.text("system") == _SYSTEM})

    def predict(row: Row) -> Iterator[Outcome]:
        if row.count("ep", 1) > 1:
            raise MpsimError("has experts: their routing and grouped products are not replayed here")
        case = row.text("case")
        step_s, peak = _step(row, rates)
        yield Outcome(case=case, measured=row.number("real_ms") / 1e3, predicted=step_s)
        if row.text("real_alloc_GiB"):
            measured = row.number("real_alloc_GiB") * _GIB
            yield Outcome(case=case, what="memory", unit="bytes", measured=measured, predicted=peak)

    return predict


def _step(row: Row, rates: _Measured) -> tuple[float, float]:
    """Return the step of a row and the largest peak of a device."""
    names = ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab")
    layers, hidden, heads, kv_heads, ffn, vocabulary = map(row.count, names)
    decoder = Decoder(layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, ffn=ffn, vocabulary=vocabulary)
    tp, cp, pp, dp, chunks = row.count("tp"), row.count("cp", 1), row.count("pp"), row.count("dp"), row.count("vp", 1)
    row.check_gpus(tp * cp * pp * dp)
    if decoder.layers % (pp * chunks) or decoder.heads % (tp * cp):
        raise MpsimError(
            f"{row.where}: layers or heads do not divide over pp {pp} × {chunks} chunks, tp {tp} × cp {cp}"
        )
    shared = Shared(row.count("micro_batch"), row.count("seq"), tp, cp, sequence_parallel=tp > 1, overlaps=False)
    exchange = rates.exchanges(shared)
    part = block(decoder, shared, rates, exchange)
    ends = (embedding(decoder, shared, rates, exchange), head(decoder, shared, rates, exchange))
    replicas = dp * cp

    def update_s(count: float) -> float:
        return rates.update_s(count, replicas)

    blocks = [layer(f"block{i}", part, _STATE, update_s=update_s) for i in range(decoder.layers)]
    made = [layer(name, one, _STATE, update_s=update_s) for name, one in zip(("embedding", "head"), ends, strict=True)]
    plan = plan_of(
        dp=replicas, pp=pp, microbatches=row.count("n_microbatches"), chunks=chunks, zero=1, layers=decoder.layers,
        first=1, runtime="torch-nccl" if chunks == 1 else "blocking",
    )  # fmt: skip
    message = rates.width * shared.between * decoder.hidden
    work = workload(row.text("case"), [made[0], *blocks, made[1]], _STATE, _DEVICE, message)
    found = simulate(work, rates.node(replicas * pp), plan, spans=False)
    # Buckets are views of the gradients that are there (param_and_grad_buffer.py), no copies of them.
    return found.step_s, max(use.memory.peak_bytes - use.memory.buffers_bytes for use in found.devices)


SIMUMAX = Adapter(
    file="simumax_b200",
    about="Llama shapes on 8 B200 by tp, pp, cp and dp, at the measured efficiency of each product and collective.",
    columns=("case", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "seq", "tp", "cp", "ep", "pp", "dp",
             "micro_batch", "n_microbatches", "vp", "real_ms"),
    open=_open,
    case=lambda row: row.text("case"),
    goals={"time": 0.05, "memory": 0.03},
)  # fmt: skip
