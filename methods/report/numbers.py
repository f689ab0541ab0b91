"""How numbers are written: fixed decimals in tables, significant digits in sentences."""

from __future__ import annotations

import math

MINUS = "\u2212"
LARGE, SMALL = 1e7, 1e-4
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def fixed(value: float, digits: int) -> str:
    """A number with `digits` decimals: thousands apart, exponents where decimals would say nothing."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{MINUS if value < 0 else ''}∞"
    if abs(value) >= LARGE or (value != 0 and float(f"{value:.{digits}f}") == 0):
        return _scientific(value, 2)
    return _signed(f"{value:,.{digits}f}")


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent where that reads well."""
    if not math.isfinite(value) or value == 0:
        return fixed(value, 0)
    if abs(value) >= LARGE or abs(value) < SMALL:
        return _scientific(value, digits - 1)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return _signed(f"{value:,.{decimals}f}")


def around(value: float, low: float | None, high: float | None) -> str:
    """`value (low to high)` with the decimals that the interval's width calls for."""
    if low is None or high is None:
        return significant(value)
    width = max(high - low, abs(value) * 1e-4)
    if abs(value) >= LARGE or max(abs(value), width) < SMALL:
        return f"{significant(value)} ({significant(low)} to {significant(high)})"
    decimals = min(8, max(0, 1 - math.floor(math.log10(width)))) if width > 0 else 3
    texts = (_plain(number, decimals) for number in (value, low, high))
    return "{} ({} to {})".format(*texts)


def signed(text: str, value: float) -> str:
    """With a plus in front of what is positive, for differences."""
    return f"+{text}" if value > 0 else text


def p_value(p: float) -> str:
    """A p-value as papers print it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _scientific(value: float, decimals: int) -> str:
    mantissa, exponent = f"{value:.{decimals}e}".split("e")
    return _signed(f"{mantissa}×10{str(int(exponent)).translate(SUPERSCRIPTS)}")


def _plain(value: float, decimals: int) -> str:
    """Fixed decimals, and no minus in front of a zero."""
    return _signed(f"{round(value, decimals) + 0.0:,.{decimals}f}")


def _signed(text: str) -> str:
    return text.replace("-", MINUS, 1) if text.startswith("-") else text
