"""The watched model and the exported graph of it fall into the same layers, between which the same goes."""

import pytest

pytest.importorskip("transformers")

import torch
from zoo_sizes import SMALL

from mpsim.emulate.capture.cut import capture
from mpsim.emulate.parts import crossing_tensors
from mpsim.workload.example import flat_inputs
from mpsim.workload.source import resolve_model
from mpsim.workload.trace import build, trace

pytestmark = pytest.mark.usefixtures("timed_once")

BATCH = 2


def crossing_bytes(tensors, layers, boundary):
    """Return the bytes that cross a boundary forward, and those of gradients that come back."""
    place = {name: i for i, name in enumerate(layers)}
    crossing = [
        one
        for one in tensors
        if one.producer and place[one.producer] < boundary and any(place[name] >= boundary for name in one.consumers)
    ]
    return sum(one.bytes() for one in crossing), sum(one.bytes() for one in crossing if one.needs_gradient)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_same_crosses_every_boundary(name):
    source = resolve_model(name, SMALL[name])
    workload = trace(source, BATCH, repeats=1, warmup=1, progress=False)
    example = build(source, BATCH)
    cut = capture(example)
    layers = [layer.name for layer in workload.layers]
    assert [unit.name for unit in cut.units] == layers
    feeds = {feed: value for feed, value in zip(cut.feeds, flat_inputs(example), strict=True) if feed}
    seen = crossing_tensors(cut, example.model, feeds)
    for boundary in range(1, len(layers)):
        later = {value for unit in cut.units[boundary:] for value in unit.inputs}
        made = [value for unit in cut.units[:boundary] for value in unit.outputs if value in later]
        sizes = [(torch.Size(seen[v].shape).numel() * seen[v].dtype.itemsize, seen[v].needs_gradient) for v in made]
        expected = sum(size for size, _ in sizes), sum(size for size, back in sizes if back)
        assert crossing_bytes(workload.tensors, layers, boundary) == expected, layers[boundary]
