"""Sets that do not fit in memory: decoded anew each epoch, while the net trains."""

from autogrow_jax.stream.images import Streamed, crop_centre, decode_centre
from autogrow_jax.stream.load import can_stream, is_streamed, load_stream, read_stream
from autogrow_jax.stream.read import read_batches
from autogrow_jax.stream.workers import keep_workers

__all__ = [
    "Streamed",
    "can_stream",
    "crop_centre",
    "decode_centre",
    "is_streamed",
    "keep_workers",
    "load_stream",
    "read_batches",
    "read_stream",
]
