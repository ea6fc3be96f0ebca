"""Files of images: what readers hand over, and the formats and folders that they read."""

from autogrow_jax.files.cache import (
    PARTS,
    array_path,
    cache_root,
    entry_name,
    new_entry,
    open_entry,
    write_info,
    write_split,
)
from autogrow_jax.files.folder import read_image_folder
from autogrow_jax.files.image_files import (
    Box,
    Choose,
    decode_crop,
    is_image,
    parse_ground,
    read_bytes,
    read_image,
)
from autogrow_jax.files.listing import ClassFolder, Listing, list_folder
from autogrow_jax.files.misnamed import is_misspelt, what_is, what_was_meant
from autogrow_jax.files.official import (
    DIGITS,
    OFFICIAL_SETS,
    find_other,
    read_official,
    search_folders,
)
from autogrow_jax.files.pixels import channel_statistics, pad_images, pad_split, resize_center_crop
from autogrow_jax.files.tree import walk_files
from autogrow_jax.files.types import (
    DAMAGED,
    NoTrainingPart,
    Preprocessing,
    Source,
    Split,
    check_source,
    image_ids,
    make_split,
    plain_name,
    reason,
    take,
)

__all__ = [
    "DAMAGED",
    "DIGITS",
    "OFFICIAL_SETS",
    "PARTS",
    "Box",
    "Choose",
    "ClassFolder",
    "Listing",
    "NoTrainingPart",
    "Preprocessing",
    "Source",
    "Split",
    "array_path",
    "cache_root",
    "channel_statistics",
    "check_source",
    "decode_crop",
    "entry_name",
    "find_other",
    "image_ids",
    "is_image",
    "is_misspelt",
    "list_folder",
    "make_split",
    "new_entry",
    "open_entry",
    "pad_images",
    "pad_split",
    "parse_ground",
    "plain_name",
    "read_bytes",
    "read_image",
    "read_image_folder",
    "read_official",
    "reason",
    "resize_center_crop",
    "search_folders",
    "take",
    "walk_files",
    "what_is",
    "what_was_meant",
    "write_info",
    "write_split",
]
