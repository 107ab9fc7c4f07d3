"""What says nearly the same is said once, and nothing is lost silently."""

from hypothesis import given
from hypothesis import strategies as st

from mpsim.result.once import once
from mpsim.result.text import caution, short_notes

SHARE = "scaled: a replica's share of the update is taken as {} of the whole one"
COSTS = "costs of {} were not measured: nvlink5 as nvlink4, latencies x 1, bandwidths x 2"
CHECK = "doubtful: layers sum to {} of the whole step at micro-batch {}"


def test_numbers_and_names_are_gathered():
    said = [SHARE.format("1/4"), COSTS.format("send"), SHARE.format("1/2 to 1/8"), COSTS.format("all_gather, send")]
    assert once(said) == (SHARE.format("1/4, 1/2 to 1/8"), COSTS.format("send, all_gather"))
    assert once(reversed(said[1::2])) == (COSTS.format("all_gather, send"),)
    rooflines = [f"analytical: rooflines of {name}, not measurements" for name in ("T4", "NVIDIA H200", "T4")]
    assert once(rooflines) == ("analytical: rooflines of T4, NVIDIA H200, not measurements",)
    assert once(SHARE.format(f"1/{n}") for n in range(2, 9)) == (SHARE.format("1/2, 1/3, 1/4, 1/5, and 3 more"),)


def test_several_numbers_are_counted():
    assert once([CHECK.format(0.8, 4), CHECK.format(0.9, 2), CHECK.format(1.1, 1)]) == (
        f"{CHECK.format(0.8, 4)} (and 2 like it)",
    )


def test_what_differs_in_more_is_said_by_itself():
    apart = ["scaled from T4 to L4 by speed: times × 2", "scaled from T4 by roofline: times × 3, 1 to 4", CHECK, SHARE]
    assert once(apart) == tuple(apart)
    unlike = ["costs of send were given", "costs of send were given by a file", "send"]
    assert once(unlike) == tuple(unlike)


def test_lines_of_cautions_and_notes_have_each_once():
    assert caution([SHARE.format("1/4"), SHARE.format("1/8")]) == f"caution: {SHARE.format('1/4, 1/8')}\n"
    assert short_notes([f"vocabulary padded to {n}, a multiple of {n}" for n in (8, 16)]) == [
        "note: vocabulary padded to 8, a multiple of 8 (and 1 like it)"
    ]


@given(st.lists(st.lists(st.sampled_from(["a", "b", "1", "2", "c,"]), max_size=6).map(" ".join)))
def test_said_once_is_said_once(phrases):
    told = once(phrases)
    assert len(told) <= len({*phrases})
    assert once(phrases * 2) == told
    assert all(once([one]) == (one,) for one in phrases)
