"""Money that adds up: whole micro-dollars, never floats."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal


@dataclass(frozen=True, slots=True, order=True)
class Money:
    """An amount in millionths of a US dollar (every price list the catalogue reads is in USD)."""

    micros: int = 0

    @classmethod
    def usd(cls, amount: float | str | Decimal) -> Money:
        """Rounded up to the next micro-dollar: an estimate must never be lower than the price."""
        return cls(int((Decimal(str(amount)) * 1_000_000).to_integral_value(ROUND_CEILING)))

    def __add__(self, other: Money) -> Money:
        return Money(self.micros + other.micros)

    def __sub__(self, other: Money) -> Money:
        return Money(self.micros - other.micros)

    def times(self, factor: float) -> Money:
        """``factor`` times the amount, rounded up."""
        return Money(int((Decimal(self.micros) * Decimal(str(factor))).to_integral_value(ROUND_CEILING)))

    def __str__(self) -> str:
        dollars = Decimal(self.micros) / 1_000_000
        if 0 < self.micros < 100:
            return "<$0.0001"
        return f"${dollars:.2f}" if self.micros == 0 or abs(dollars) >= 1 else f"${dollars:.4f}"
