"""Checkpoints, and arrays in files."""

from autogrow_jax.saving.arrays import Restored, read_arrays, write_arrays
from autogrow_jax.saving.checkpoint import CheckpointStore, evaluated_arrays, read_last, rebuild

__all__ = [
    "CheckpointStore",
    "Restored",
    "evaluated_arrays",
    "read_arrays",
    "read_last",
    "rebuild",
    "write_arrays",
]
