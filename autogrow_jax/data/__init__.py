"""Data sets as arrays, and what happens to a batch inside the training step."""

from autogrow_jax.data.adapt import adapt_parts, fit_images, list_images, load_other
from autogrow_jax.data.augment import (
    AUGMENTATIONS,
    Augmentation,
    augment,
    normalize,
    register_augmentation,
)
from autogrow_jax.data.dataset import Choices, Dataset, whole
from autogrow_jax.data.known import Known, list_changes, list_names
from autogrow_jax.data.load import full_name, load_dataset
from autogrow_jax.files import (
    NoTrainingPart,
    Preprocessing,
    Split,
    is_image,
    parse_ground,
    read_bytes,
    read_image,
    resize_center_crop,
    walk_files,
)

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "Choices",
    "Dataset",
    "Known",
    "NoTrainingPart",
    "Preprocessing",
    "Split",
    "adapt_parts",
    "augment",
    "fit_images",
    "full_name",
    "is_image",
    "list_changes",
    "list_images",
    "list_names",
    "load_dataset",
    "load_other",
    "normalize",
    "parse_ground",
    "read_bytes",
    "read_image",
    "register_augmentation",
    "resize_center_crop",
    "walk_files",
    "whole",
]
