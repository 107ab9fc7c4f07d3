"""The catalog of devices and links and the zoo of models, in text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mpsim.tables import Text, align_rows, facts, joined
from mpsim.topology.catalog import CatalogDevice, CatalogLink, device, device_names, link, link_names
from mpsim.units import format_bandwidth, format_bytes, format_duration

__all__ = ["catalog_text", "catalog_to_dict", "entry_text", "entry_to_dict", "model_text", "models_text"]


def catalog_to_dict() -> dict[str, Any]:
    """Return every device and link with every figure."""
    return {"devices": [asdict(device(n)) for n in device_names()], "links": [asdict(link(n)) for n in link_names()]}


def catalog_text() -> Text:
    """Return a line for each device and link, and where the figures come from."""
    devices, links = [device(name) for name in device_names()], [link(name) for name in link_names()]
    heads = (
        [
            "device",
            "year",
            "memory",
            "its bandwidth",
            "bf16 peak",
            "matmuls reach",
            "inside",
            "between",
            "confidence",
            "source",
        ],
        ["link", "bandwidth", "reached", "effective latency", "wire latency", "confidence", "source"],
    )
    return joined(
        "\n",
        [
            align_rows(
                [heads[0], *map(_device_row, devices)], spare=("source", "year", "confidence", "between", "inside")
            ),
            "",
            align_rows([heads[1], *map(_link_row, links)], spare=("source", "confidence")),
            "",
            "bandwidth: one direction of one device's port, as on the data sheet; reached: what transfers got of it",
            "effective latency: of a message as a library delivers it; wire latency: of the wire alone",
            "confidence: A read in a cited source, B partly, C recalled or estimated",
            "",
            *_legend(devices, links),
        ],
    )


def _device_row(one: CatalogDevice) -> list[str]:
    peak = one.bf16_flop_per_s
    return [
        one.name,
        str(one.year),
        format_bytes(one.memory_bytes),
        format_bandwidth(one.memory_bandwidth_bytes_per_s),
        f"{peak / 1e12:.4g} TFLOP/s" if peak else "-",
        f"{100 * one.matmul_fraction:.0f} %" if one.matmul_fraction else "-",
        one.inside_link,
        one.between_link,
        one.confidence,
        _keys(one.source),
    ]


def _link_row(one: CatalogLink) -> list[str]:
    return [
        one.name,
        format_bandwidth(one.bandwidth_bytes_per_s),
        f"{100 * one.reachable_fraction:.0f} %",
        format_duration(one.effective_latency_s),
        "-" if one.wire_latency_s is None else format_duration(one.wire_latency_s),
        one.confidence,
        _keys(one.source),
    ]


def _keys(source: str) -> str:
    return source.split(" | ")[0]


def _legend(devices: Sequence[CatalogDevice], links: Sequence[CatalogLink]) -> list[str]:
    """Return what each key of a source stands for, once."""
    sources = [one.source for one in devices] + [one.source for one in links]
    entries = {entry for source in sources for entry in source.split(" | ")[1:]}
    return sorted(entries, key=lambda entry: (len(entry.split("=")[0]), entry))


def entry_to_dict(name: str) -> dict[str, Any]:
    """Return one device or link with every figure."""
    return asdict(device(name) if name in device_names() else link(name))


def entry_text(name: str) -> Text:
    """Return one device or link, a line for each figure that is known."""
    known = {key: value for key, value in entry_to_dict(name).items() if value not in (None, "")}
    return facts((key, f"{value:g}" if isinstance(value, float) else str(value)) for key, value in known.items())


def model_text(row: dict[str, Any]) -> str:
    """Return one model of the zoo with its sizes."""
    sizes = [f"  {name}={_size(value)}" for name, value in row["sizes"].items()]
    return "\n".join(
        [
            f"{row['name']}: {row['description']}",
            f"{row['parameters']:,} parameters, batch {row['default_batch']} by default"
            + (f", {row['dataset_samples']:,} samples in an epoch" if row["dataset_samples"] else ""),
            "sizes, changed by --set name=value",
            *sizes,
            f"measure it with: mpsim trace {row['name']} -o {row['name']}.json",
        ]
    )


def models_text(rows: Sequence[dict[str, Any]]) -> Text:
    """Return the zoo, a line a model."""
    head = ["model", "parameters", "batch", "sizes (--set name=value)"]
    cells = [
        [row["name"], f"{row['parameters']:,}", str(row["default_batch"]),
         " ".join(f"{name}={_size(value)}" for name, value in row["sizes"].items())]
        for row in rows
    ]  # fmt: skip
    return align_rows([head, *cells], left=(0, 3))


def _size(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
