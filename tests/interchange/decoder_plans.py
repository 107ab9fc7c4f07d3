"""A decoder made by hand, and plans of it, for tests of other trainers' configurations."""

from hypothesis import strategies as st

from mpsim.workload.model import Layer, Workload

BLOCKS = 8
NAMES = ["embed", *(f"layers.{i}" for i in range(BLOCKS)), "norm", "head"]
DECODER = Workload.chain("decoder", [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in NAMES])
MORE = Workload.chain(
    "two", [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in ("wte", "wpe", "h.0", "h.1", "ln", "head")]
)
POWERS = st.sampled_from([1, 2, 4])


@st.composite
def cuts(draw, stages):
    """Return boundaries of so many stages, of which none is the norm alone."""
    places = [*range(1, BLOCKS + 2), BLOCKS + 2]
    found = tuple(sorted(draw(st.sets(st.sampled_from(places), min_size=stages - 1, max_size=stages - 1))))
    return tuple(place for place in found if place != BLOCKS + 1 or BLOCKS + 2 not in found) if stages > 1 else None
