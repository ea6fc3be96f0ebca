"""Numbers as people read them."""

from collections.abc import Mapping, Sequence
from typing import Any


def format_depths(depths: Sequence[int]) -> str:
    """A net's name, as the paper writes it: `(23, 22, 22)` is `23-22-22`."""
    return "-".join(str(depth) for depth in depths)


def round_percent(accuracy: float, digits: int = 2) -> str:
    """A percentage with so many decimals; what is not all or none does not look so.

    >>> round_percent(99.996), round_percent(100.0), round_percent(0.01, digits=1)
    ('99.99', '100.00', '0.1')
    """
    if 0 < accuracy < 100:
        edge = 10.0**-digits
        accuracy = min(max(accuracy, edge), 100 - edge)
    return f"{accuracy:.{digits}f}"


def format_duration(seconds: float) -> str:
    """Seconds for a person: `8.4 s`, `12 min 05 s`, `3 h 07 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def format_count(number: int, noun: str) -> str:
    """A number of things: `1 epoch`, `5,000 epochs`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def count_times(number: int) -> str:
    """How often: `once`, `18 times`."""
    return "once" if number == 1 else f"{number:,} times"


def format_behind(net: Mapping[str, Any]) -> str:
    """How far a net of a front is behind the best one's Brier score, with its standard error.

    "" in results from before it was measured.
    """
    if "brier" not in net:
        return ""
    return f"{net['brier_behind']:.4f} ± {net['brier_error']:.4f}"
