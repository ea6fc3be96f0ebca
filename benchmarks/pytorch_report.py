"""What `against_pytorch` found, put into tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.measure import print_table
from benchmarks.roofline import Limits

_BASE = "pytorch"


def print_report(
    rows: Sequence[Mapping[str, Any]], limits: Mapping[str, Limits], batch_size: int
) -> None:
    """Prints tables for each dtype and for training and evaluation.

    Args:
      rows: made by `against_pytorch.measure`.
      limits: what the machine reached, by dtype.
      batch_size: images of a step.
    """
    for dtype, limit in limits.items():
        print(
            f"\n{dtype}: a plain pass over memory {limit.bytes_per_second / 1e9:.1f} GB/s, a matrix"
            f" product {limit.flops_per_second / 1e9:.0f} GFLOP/s"
            "\nOperations are counted as direct convolutions make them. Winograd's filtering, which"
            "\nour own use, multiplies up to 4 times less: more than 100 % of the roofline is no"
            " mistake."
        )
        for kind in ("train", "evaluate"):
            chosen = [row for row in rows if (row["dtype"], row["kind"]) == (dtype, kind)]
            _print_kind(f"{kind}, {dtype}", chosen, batch_size)


def _print_kind(title: str, rows: Sequence[Mapping[str, Any]], batch_size: int) -> None:
    names = list(rows[0]["seconds"])

    def table(what: str, figure: Callable[[Mapping[str, Any], str], float]) -> None:
        print(f"\n{title}: {what}\n")
        print_table(
            ["net", *names], [[_net(row), *(figure(row, n) for n in names)] for row in rows]
        )

    table("images a second", lambda row, name: batch_size / row["seconds"][name])
    table(f"time as a multiple of {_BASE}'s, median over rounds", _times)
    table(
        "GFLOP/s of convolutions and the linear layer",
        lambda row, name: row["work"]["flops"] / row["seconds"][name] / 1e9,
    )
    table(
        "share of the roofline, %: the least time, by count, of the time it took",
        lambda row, name: 100 * row["least_seconds"] / row["seconds"][name],
    )
    table(
        f"processor time as a multiple of {_BASE}'s",
        lambda row, name: row["processor_seconds"][name] / row["processor_seconds"][_BASE],
    )


def _net(row: Mapping[str, Any]) -> str:
    return f"{row['family']} {'-'.join(map(str, row['depths']))}"


def _times(row: Mapping[str, Any], name: str) -> float:
    return row["times_of_pytorch"][name]
