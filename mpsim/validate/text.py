"""A validation as text for a terminal: each case, errors by kind of plan, the order of plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from mpsim.tables import Column, Text, align, joined
from mpsim.units import format_bytes, format_duration
from mpsim.validate.compare import Comparison
from mpsim.validate.exchanges import Exchanged
from mpsim.validate.model import Summary, Validation, summarize

__all__ = ["exchange_table", "percent", "table"]


def percent(fraction: float) -> str:
    """Write an error with its sign.

    Examples
    --------
    >>> percent(0.0123), percent(-0.2)
    ('+1.2 %', '-20.0 %')
    """
    return f"{100 * fraction:+.1f} %"


def table(found: Validation) -> Text:
    """Return the rows, the errors by kind of plan, and how well the order of plans was predicted.

    Examples
    --------
    >>> print(table(Validation(rows=(), planned=8)))
    0 of 8 cases were run
    """
    blocks = [] if len(found.rows) == found.planned else [f"{len(found.rows)} of {found.planned} cases were run"]
    blocks += [f"not run: {name}: {reason}" for name, reason in found.failures]
    if found.rows:
        blocks += [
            align(_rows(found.rows), ("ideal", "in spreads", "5-95 %")),
            align(_summaries(found)),
            *_orders(found),
        ]
    return joined("\n\n", blocks)


_ROW: tuple[tuple[str, bool, Callable[[Comparison], str]], ...] = (
    ("model", True, lambda row: row.model),
    ("link", True, lambda row: row.wire),
    ("plan", True, lambda row: row.plan),
    ("predicted", False, lambda row: format_duration(row.predicted_s)),
    ("measured", False, lambda row: format_duration(row.measured_s)),
    (
        "5-95 %",
        False,
        lambda row: f"{format_duration(row.measured_p5_s)} to {format_duration(row.measured_p95_s)}",
    ),
    ("error", False, lambda row: percent(row.error_fraction)),
    ("in spreads", False, lambda row: "" if row.error_in_spreads is None else f"{row.error_in_spreads:+.1f}"),
    ("ideal", False, lambda row: percent(row.ideal_error_fraction)),
    ("most of it", True, lambda row: f"{row.largest} {percent(getattr(row, f'{row.largest}_fraction'))}"),
)


def _rows(rows: Sequence[Comparison]) -> list[Column]:
    return [Column(heading, left, [text(row) for row in rows]) for heading, left, text in _ROW]


def _summaries(found: Validation) -> list[Column]:
    kinds = found.kinds
    whole = summarize(found.rows)
    named = [*kinds.items(), *([("all", whole)] if whole is not None else [])]
    numbers: tuple[tuple[str, Callable[[Summary], str]], ...] = (
        ("cases", lambda one: str(one.count)),
        ("mean error", lambda one: percent(one.mean_fraction)[1:]),
        ("worst", lambda one: percent(one.worst_fraction)[1:]),
        ("with its sign", lambda one: percent(one.bias_fraction)),
        ("ideal: mean", lambda one: percent(one.ideal_mean_fraction)[1:]),
        ("worst", lambda one: percent(one.ideal_worst_fraction)[1:]),
    )
    first = Column("kind of plan", True, [name for name, _ in named])
    return [first, *(Column(heading, False, [text(one) for _, one in named]) for heading, text in numbers)]


def _orders(found: Validation) -> list[str]:
    orders = found.orders
    if not orders:
        return []
    return [
        align(
            [
                ("model", True, [model for model, _ in orders]),
                ("link", True, [wire for _, wire in orders]),
                ("plans", False, [str(count) for count, _, _ in orders.values()]),
                ("rank correlation", False, [f"{ours:.3f}" for _, ours, _ in orders.values()]),
                ("ideal", False, ["" if ideal is None else f"{ideal:.3f}" for _, _, ideal in orders.values()]),
            ]
        )
    ]


def exchange_table(rows: Sequence[Exchanged]) -> Text:
    """Return the rows of collectives, and their errors by number of ranks.

    Examples
    --------
    >>> exchange_table([])
    ''
    """
    if not rows:
        return joined("", [])
    cells = [(heading, left, [text(row) for row in rows]) for heading, left, text in _EXCHANGE]
    groups = {
        f"{n} ranks": [row for row in rows if row.processes == n] for n in sorted({row.processes for row in rows})
    }
    groups["all"] = list(rows)
    return joined("\n\n", [align(cells, ("ideal", "5-95 %")), align(_medians(groups))])


_EXCHANGE: tuple[tuple[str, bool, Callable[[Exchanged], str]], ...] = (
    ("ranks", False, lambda row: str(row.processes)),
    ("link", True, lambda row: row.wire),
    ("collective", True, lambda row: row.kind),
    ("bytes", False, lambda row: format_bytes(row.bytes)),
    ("predicted", False, lambda row: format_duration(row.predicted_s)),
    ("measured", False, lambda row: format_duration(row.measured_s)),
    ("5-95 %", False, lambda row: f"{format_duration(row.measured_p5_s)} to {format_duration(row.measured_p95_s)}"),
    ("error", False, lambda row: percent(row.error_fraction)),
    ("ideal", False, lambda row: percent(row.ideal_error_fraction)),
)


def _medians(groups: dict[str, list[Exchanged]]) -> list[Column]:
    ours = [[abs(row.error_fraction) for row in rows] for rows in groups.values()]
    ideal = [[abs(row.ideal_error_fraction) for row in rows] for rows in groups.values()]
    return [
        Column("", True, list(groups)),
        Column("rows", False, [str(len(rows)) for rows in groups.values()]),
        Column("median error", False, [percent(median(errors))[1:] for errors in ours]),
        Column("worst", False, [percent(max(errors))[1:] for errors in ours]),
        Column("ideal: median", False, [percent(median(errors))[1:] for errors in ideal]),
        Column("worst", False, [percent(max(errors))[1:] for errors in ideal]),
    ]
