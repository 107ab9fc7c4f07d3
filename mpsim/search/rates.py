"""The units that people plan in: tokens a second, FLOP/s a device, the part of a device's peak, and money."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mpsim.errors import MpsimError
from mpsim.lowering.rates import sample_rates
from mpsim.sweeps.model import Row
from mpsim.topology.model import Topology
from mpsim.workload.model import Workload

__all__ = ["Price", "Rates", "parse_count", "parse_price"]

_CURRENCY = r"(?P<before>[$€£¥]|[A-Z]{3})?\s*(?P<amount>\d+(?:\.\d+)?)\s*(?P<after>[$€£¥]|[A-Z]{3})?"
_PRICE = re.compile(rf"\s*{_CURRENCY}\s*/\s*(?:GPU|device)?\s*-?\s*(?P<unit>h|hour|d|day)\s*", re.ASCII | re.IGNORECASE)
_SECONDS = {"h": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0}
_COUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMBT]?)\s*", re.ASCII | re.IGNORECASE)
_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class Price:
    """What a device costs.

    Attributes
    ----------
    per_s : float
        For a second.
    currency : str
        Such as ``USD`` or ``$``.
    """

    per_s: float
    currency: str

    def text(self, amount: float) -> str:
        """Write an amount for people.

        Examples
        --------
        >>> Price(1.0, "USD").text(1234567.8), Price(1.0, "$").text(12.345)
        ('USD 1,234,568', '$12.35')
        """
        number = f"{amount:,.0f}" if amount >= 1000 else f"{amount:,.2f}" if amount >= 1 else f"{amount:.3g}"
        return f"{self.currency} {number}" if self.currency.isalpha() else f"{self.currency}{number}"


def parse_price(text: str) -> Price:
    """Read what a device costs for an hour or a day.

    Raises
    ------
    MpsimError
        There is no unit, no currency, or no number.

    Examples
    --------
    >>> parse_price("2.5 USD/h").per_s * 3600, parse_price("$60/day").currency
    (2.5, '$')
    """
    found = _PRICE.fullmatch(text)
    currency = (found["before"] or found["after"] or "").upper() if found else ""
    if not found or not currency or (found["before"] and found["after"]):
        raise MpsimError(
            f"price is {text!r}, expected a number, a currency and a unit of time, for one device: such as"
            " 2.5 USD/h or $60/day"
        )
    return Price(float(found["amount"]) / _SECONDS[found["unit"].lower()], currency)


def parse_count(text: str, what: str) -> int:
    """Read a number of tokens: K, M, B and T are 10^3 to 10^12.

    Raises
    ------
    MpsimError
        It is no such number, or no whole one.

    Examples
    --------
    >>> parse_count("15T", "tokens"), parse_count("0.5M", "tokens"), parse_count("4096", "tokens")
    (15000000000000, 500000, 4096)
    """
    found = _COUNT.fullmatch(text)
    number = float(found[1]) * _FACTORS[found[2].upper()] if found else 0.0
    if not found or number < 1 or number != int(number):
        raise MpsimError(f"{what} is {text!r}, expected a whole number of tokens: such as 4M, 15T or 4194304")
    return int(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a step of a workload is in tokens and in products.

    Attributes
    ----------
    tokens : int
        Of a sample; 0 where samples are not sequences.
    flops : int
        Of a sample's forward and backward, without what is computed again.
    peak_flops_per_s : float or None
        Of a device, at the rate of the workload's precision; None where devices are unlike or in no catalog.
    price : Price or None
        Of a device.
    train_tokens : int
        What money is for; 0: a step.
    """

    tokens: int
    flops: int
    peak_flops_per_s: float | None = None
    price: Price | None = None
    train_tokens: int = 0

    @classmethod
    def of(cls, workload: Workload, topology: Topology, *, price: Price | None = None, train_tokens: int = 0) -> Rates:
        """Return the rates of a workload on a topology.

        Raises
        ------
        MpsimError
            Money is asked for tokens, of samples that have none.
        """
        tokens, flops, peak = sample_rates(workload, topology)
        if train_tokens and not tokens:
            raise MpsimError(f"samples of {workload.name!r} are no sequences of tokens: leave the number of tokens out")
        return cls(tokens=tokens, flops=flops, peak_flops_per_s=peak or None, price=price, train_tokens=train_tokens)

    def tokens_per_s(self, row: Row) -> float | None:
        """Return the tokens of a plan's row a second."""
        return float(self.tokens * row["global_batch"] / row["step_s"]) if self.tokens and row["step_s"] else None

    def flops_per_s(self, row: Row) -> float | None:
        """Return the model's FLOP/s on each device."""
        if not self.flops or not row["step_s"]:
            return None
        return float(self.flops * row["global_batch"] / row["step_s"] / row["n_devices"])

    def mfu(self, row: Row) -> float | None:
        """Return what of the device's peak that is (model FLOP/s utilization, https://arxiv.org/abs/2204.02311)."""
        rate = self.flops_per_s(row)
        return float(rate / self.peak_flops_per_s) if rate and self.peak_flops_per_s else None

    def money(self, row: Row) -> float | None:
        """Return what the tokens asked for cost, or a step."""
        if self.price is None or not row["step_s"]:
            return None
        steps = self.train_tokens / (self.tokens * row["global_batch"]) if self.train_tokens else 1.0
        return float(steps * row["step_s"] * row["n_devices"] * self.price.per_s)
