"""What a run tells: its metrics file, its result, the terminal, TensorBoard and the plots.

Reading and truncating a metrics file are `metrics.read` and `metrics.truncate` of this package.
`autogrow_jax.reporting.plots` is imported on its own, so that a run that draws nothing does not
wait for matplotlib. `python -m autogrow_jax.reporting WORKDIR` redraws and prints a run.
"""

from autogrow_jax.reporting.console import (
    ConsoleReporter,
    EpochStart,
    QuietReporter,
    Reporter,
    SeedReporter,
)
from autogrow_jax.reporting.metrics import MetricsWriter, TensorBoardWriter, growth_events
from autogrow_jax.reporting.result import Result, format_result, read_result, write_result
from autogrow_jax.reporting.tracking import track
from autogrow_jax.reporting.workdir import Workdir, replace_file, to_json

__all__ = [
    "ConsoleReporter",
    "EpochStart",
    "MetricsWriter",
    "QuietReporter",
    "Reporter",
    "Result",
    "SeedReporter",
    "TensorBoardWriter",
    "Workdir",
    "format_result",
    "growth_events",
    "read_result",
    "replace_file",
    "to_json",
    "track",
    "write_result",
]
