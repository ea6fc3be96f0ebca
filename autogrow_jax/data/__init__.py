"""Data sets as arrays, and what happens to a batch inside the training step."""

from autogrow_jax.data.augment import augment, normalize
from autogrow_jax.data.load import load_dataset
from autogrow_jax.data.types import Dataset, Preprocessing, Split

__all__ = ["Dataset", "Preprocessing", "Split", "augment", "load_dataset", "normalize"]
