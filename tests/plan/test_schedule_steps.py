"""How long schedules take, against the formulas of their papers, with times that add up exactly."""

import pytest

from mpsim.errors import MpsimError
from mpsim.plan.operations import Operation, parse_rows
from mpsim.plan.schedules import SCHEDULES
from mpsim.plan.shape import most_held
from mpsim.plan.timing import bubble_fraction, row_times, stuck_at, unit_times

TIMES = [{"F": 1, "I": 1, "W": 1}, {"F": 2, "I": 3, "W": 2}, {"F": 4, "I": 5, "W": 3}]
RANKS = (1, 2, 3, 4, 7, 8, 16)


def step(rows, times, message_s=0.0):
    spent = times | {"B": times["I"] + times["W"], "U": 0}
    return max(end_s for row in row_times(rows, lambda op: spent[op.kind], message_s) for _, end_s in row)


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", ["gpipe", "1f1b", "eager-1f1b", "pipedream"])
def test_flat_schedules(name, ranks, times):
    """https://arxiv.org/abs/1811.06965: (p − 1) / (m + p − 1) of the step is bubble."""
    for microbatches in (1, 2, 3, 8, 9, 33):
        rows = SCHEDULES[name](ranks, microbatches)
        assert step(rows, times) == (microbatches + ranks - 1) * sum(times.values())


@pytest.mark.parametrize("ranks", RANKS)
def test_naive_and_accumulated(ranks):
    for rounds in (1, 2, 5):
        assert step(SCHEDULES["naive"](ranks, rounds), TIMES[1]) == rounds * ranks * 7
        rows = SCHEDULES["gpipe-accumulated"](ranks, rounds * ranks)
        # A round's forwards fill what the backwards before leave: the first rank ends the one round with its last.
        assert step(rows, TIMES[1]) == rounds * (2 * ranks - 1) * 7


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("chunks", [1, 2, 3, 4])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8, 16])
def test_interleaved(ranks, chunks, times):
    """https://arxiv.org/abs/2104.04473, section 2.2.2: the bubble is (p − 1)(t_F + t_B), of a stage's times."""
    for microbatches in range(ranks, 65, ranks):
        rows = SCHEDULES["interleaved-1f1b"](ranks, microbatches, chunks)
        assert step(rows, times) == (microbatches * chunks + ranks - 1) * sum(times.values())


@pytest.mark.parametrize("chunks", [1, 2, 4])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_looped_breadth_first(ranks, chunks):
    """https://arxiv.org/abs/2211.05953: the same bubble, for micro-batches enough to fill the pipeline."""
    for microbatches in (ranks, ranks + 1, 3 * ranks + 2):
        rows = SCHEDULES["looped-bfs"](ranks, microbatches, chunks)
        assert step(rows, TIMES[1]) == (microbatches * chunks + ranks - 1) * 7


@pytest.mark.parametrize("ranks", RANKS)
def test_zero_bubble(ranks):
    """https://arxiv.org/abs/2401.10241: bubbles of (p − 1)(t_F + t_I − t_W) for ZB-H1; with equal times none
    for ZB-H2 between the first and the last operation of any rank, ranks start one after another."""
    for times in (TIMES[0], {"F": 2, "I": 2, "W": 2}, {"F": 3, "I": 3, "W": 2}):
        rows = SCHEDULES["zb-h1"](ranks, 3 * ranks)
        expected = 3 * ranks * sum(times.values()) + (ranks - 1) * (times["F"] + times["I"] - times["W"])
        assert step(rows, times) == expected
    for row in unit_times(SCHEDULES["zb-h2"](ranks, 3 * ranks)):
        assert row[-1][1] - row[0][0] == 9 * ranks


@pytest.mark.parametrize("ranks", RANKS)
def test_zero_bubble_v(ranks):
    """https://arxiv.org/abs/2401.10241, section 6: with equal times no bubble but the offset at the start."""
    for microbatches in (2 * ranks, 2 * ranks + 1, 5 * ranks):
        assert step(SCHEDULES["zb-v"](ranks, microbatches), TIMES[0]) == 6 * microbatches + ranks - 1


@pytest.mark.parametrize("ranks", RANKS)
def test_dualpipe(ranks):
    """https://github.com/deepseek-ai/DualPipe: a bubble of (p − 1)(F&B + B − 3W) for the V on p ranks, and of
    (p / 2 − 1)(F&B + B − 3W) for two directions, where F&B is what the two take that share a cell."""
    bubble = 3 + 2 - 3
    assert step(SCHEDULES["dualpipe-v"](ranks, 4 * ranks), TIMES[0]) == 24 * ranks + (ranks - 1) * bubble
    assert step(SCHEDULES["dualpipe"](2 * ranks, 8 * ranks), TIMES[0]) == 24 * ranks + (ranks - 1) * bubble


@pytest.mark.parametrize("ranks", [2, 4, 8, 16])
def test_chimera(ranks):
    """https://arxiv.org/abs/2107.06925: p − 2 bubbles of a pass where both passes take as long, and
    between p / 2 + 1 and p micro-batches held on the rank that holds least and on the one that holds most."""
    rows = SCHEDULES["chimera"](ranks, ranks)
    equal = row_times(rows, lambda _: 1.0)
    assert max(end_s for row in equal for _, end_s in row) == 2 * ranks + ranks - 2
    assert (min(most_held(rows)), max(most_held(rows))) == (ranks / 2 + 1, ranks) if ranks > 2 else (2, 2)


def test_v_half_and_v_min_trade_memory_for_bubble():
    for ranks in (4, 7, 8, 16):
        rows = {name: SCHEDULES[name](ranks, 4 * ranks) for name in ("1f1b", "zb-v", "v-half", "v-min")}
        held = [max(most_held(rows[name])) for name in ("v-min", "v-half", "zb-v")]
        bubbles = [bubble_fraction(rows[name]) for name in ("zb-v", "v-half", "v-min", "1f1b")]
        assert held == sorted(held)
        assert bubbles == sorted(bubbles)


def test_messages_between_ranks_take_their_time_and_those_within_one_none():
    """Of a V of two ranks: four forwards, four backwards, two of the weights between them, four messages."""
    rows = SCHEDULES["zb-v"](2, 1)
    assert step(rows, TIMES[0], message_s=10.0) == 4 + 4 + 2 + 4 * 10.0


def test_two_that_share_a_cell_begin_and_end_together():
    rows = parse_rows("0F0 0F1+0B0 0B1\n1F0 1B0 1F1 1B1")
    assert row_times(rows, lambda op: {"F": 1.0, "B": 2.0}[op.kind]) == [
        [(0, 1), (4, 7), (4, 7), (10, 12)],
        [(1, 2), (2, 4), (7, 8), (8, 10)],
    ]


def test_where_rows_are_stuck():
    rows = parse_rows("0F0 0B0 0F1 0B1\n1F1 1B1 1F0 1B0")
    assert stuck_at(rows) == [(0, 1), (1, 0)]
    with pytest.raises(MpsimError, match="its ranks wait for each other at 0B0, 1F1"):
        unit_times(rows)


def test_an_update_takes_no_time_of_a_pass():
    assert unit_times([[Operation(0, "F", 0), Operation(0, "B", 0), Operation(0, "U", 0)]]) == [
        [(0, 1), (1, 3), (3, 3)]
    ]


@pytest.mark.parametrize("chunks", [1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_interleaved_zero_bubble(ranks, chunks):
    """ZB-H1's bubble, of a stage's times, where they are equal and there are rounds enough for weights to wait."""
    for rounds in (2, 3, 5):
        rows = SCHEDULES["interleaved-zb"](ranks, rounds * ranks, chunks)
        assert step(rows, TIMES[0]) == 3 * rounds * ranks * chunks + ranks - 1


# Of https://arxiv.org/abs/2401.10241: model, pipeline ranks and micro-batches; F, I, W and a message in milliseconds,
# as profiled there (appendix); the bubble rates that its authors computed of them (table 5) for 1F1B, ZB-H1 and ZB-H2.
PUBLISHED = [
    ("1.5B", 8, 24, (18.522, 18.086, 9.337, 0.601), (0.2431, 0.1585, 0.1083)),
    ("1.5B", 8, 32, (18.513, 18.086, 9.331, 0.626), (0.1985, 0.1242, 0.0837)),
    ("1.5B", 8, 64, (18.546, 18.097, 9.321, 0.762), (0.1240, 0.0674, 0.0444)),
    ("6.2B", 8, 24, (29.718, 29.444, 19.927, 0.527), (0.2347, 0.1323, 0.0698)),
    ("6.2B", 8, 32, (29.802, 29.428, 19.530, 0.577), (0.1898, 0.1045, 0.0559)),
    ("6.2B", 8, 64, (29.935, 29.621, 19.388, 0.535), (0.1091, 0.0554, 0.0294)),
]


@pytest.mark.parametrize(("model", "ranks", "microbatches", "profiled", "rates"), PUBLISHED)
def test_published_bubble_rates(model, ranks, microbatches, profiled, rates):
    """To the printed digit. The step is the longest that any rank takes from its first operation to its last."""
    forward, inputs, weights, message = profiled
    spent = {"F": forward, "I": inputs, "W": weights, "B": inputs + weights}
    for name, rate in zip(("1f1b", "zb-h1", "zb-h2"), rates, strict=True):
        times = row_times(SCHEDULES[name](ranks, microbatches), lambda op: spent[op.kind], message)
        longest = max(row[-1][1] - row[0][0] for row in times)
        assert round(1 - microbatches * (forward + inputs + weights) / longest, 4) == rate
