"""Numbers as users write them: exact amounts with their units, read and written."""

from __future__ import annotations

import re
from fractions import Fraction

GIB = 1 << 30
UNIT_BYTES = {
    unit: 1024**power
    for power, units in enumerate((("b",), ("k", "kb"), ("m", "mb"), ("g", "gb"), ("t", "tb")))
    for unit in units
}
"""Every byte unit of the language, in lower case; powers of 1024."""

LARGEST_BYTES = (1 << 63) - 1
"""No device holds more; a larger amount is a typing error."""

MAX_DIGITS = 64
"""More digits than any sensible amount has; keeps exact arithmetic cheap."""

NUMBER = r"[0-9]+(?:/[0-9]+|\.[0-9]*)?|\.[0-9]+"
"""Each character can be matched in one way only, so that a long text that is not a number is refused in linear time."""
_NUMBER = re.compile(NUMBER)


def parse_number(text: str) -> Fraction:
    """The exact value of ``2.5``, ``.5`` or ``1/3``; raises ValueError with the reason for anything else."""
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} characters is more than any device needs")
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"'{text}' is not a number")
    try:
        return Fraction(text.rstrip("."))
    except ZeroDivisionError:
        raise ValueError("the divisor is zero") from None


def format_number(value: Fraction) -> str:
    """The shortest text that `parse_number` reads back as exactly `value` (not negative)."""
    digits = _decimal_places(value.denominator)
    if digits is None or digits > MAX_DIGITS - 12:
        return f"{value.numerator}/{value.denominator}"
    whole, fractional = divmod(value.numerator * 10**digits // value.denominator, 10**digits)
    return f"{whole}.{fractional:0{digits}d}" if digits else str(whole)


def format_bytes(amount: int) -> str:
    """Exact bytes in the largest unit that needs at most three decimals: ``2.5gb``, ``1025b``."""
    for unit in ("tb", "gb", "mb", "kb"):
        size = UNIT_BYTES[unit]
        if amount >= size and amount * 1000 % size == 0:
            return format_number(Fraction(amount, size)) + unit
    return f"{amount}b"


def readable_bytes(amount: int) -> str:
    """Rounded bytes for people: ``2.50 GB``, ``640 MB``, ``12 kB``."""
    if amount >= GIB:
        return f"{amount / GIB:.2f} GB"
    if amount >= 1 << 20:
        return f"{amount / (1 << 20):.0f} MB"
    return f"{amount / (1 << 10):.0f} kB" if amount >= 1 << 10 else f"{amount} bytes"


def _decimal_places(denominator: int) -> int | None:
    """How many decimals 1/denominator needs, or None where its decimals never end."""
    powers = []
    for prime in (2, 5):
        power = 0
        while denominator % prime == 0:
            denominator //= prime
            power += 1
        powers.append(power)
    return max(powers) if denominator == 1 else None
