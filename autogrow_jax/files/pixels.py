"""Pixels: resizing them, padding them, and what can be said of many."""

import numpy as np
from PIL import Image

from autogrow_jax.errors import UserError
from autogrow_jax.files.types import Split

_THINNEST = 16  # Sides to one; of longer images the middle alone is resized.
_BLOCK = 4096  # images at a time, so that a memory map is never read in whole


def resize_center_crop(pixels: np.ndarray, image_size: int) -> np.ndarray:
    """Resizes the shorter side (bilinear, antialiased), then crops the centre.

    Uint8 [H, W] or [H, W, C] becomes [image_size, image_size, C]; 0 leaves the size.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if image_size:  # Of a rule of 20,000 x 1 pixels the whole length would take gigabytes.
        most = _THINNEST * min(pixels.shape[:2])
        top, left = (max(side - most, 0) // 2 for side in pixels.shape[:2])
        pixels = pixels[top : top + most, left : left + most]
    height, width, channels = pixels.shape
    if image_size in (0, height) and image_size in (0, width):
        return pixels
    scale = image_size / min(height, width)
    height = max(round(height * scale), image_size)
    width = max(round(width * scale), image_size)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    top, left = (height - image_size) // 2, (width - image_size) // 2
    cropped = resized[top : top + image_size, left : left + image_size]
    return cropped.reshape(image_size, image_size, channels)


def pad_split(part: Split, image_size: int, where: str) -> Split:
    """Pads the images of a part, see `pad_images`."""
    return part._replace(images=pad_images(part.images, image_size, where))


def pad_images(images: np.ndarray, image_size: int, where: str) -> np.ndarray:
    """Zero-pads to a square, centred; odd differences put one more row below and right."""
    height, width = images.shape[1:3]
    if max(height, width) > image_size:
        raise UserError(
            f"{where}: images are {height}x{width}, larger than the image size {image_size}; this "
            "source is padded but never shrunk: ask for a larger size, or 0 for images as they are"
        )
    if (height, width) == (image_size, image_size):
        return images
    top, left = (image_size - height) // 2, (image_size - width) // 2
    rows, columns = (top, image_size - height - top), (left, image_size - width - left)
    return np.pad(images, ((0, 0), rows, columns, (0, 0)))


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation [C] of the channels of uint8 [N, H, W, C], for pixels in [0, 1].

    A channel that never changes gets std 1: nothing to scale.
    """
    # Counts of the 256 values are exact, whatever the number of pixels.
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK].reshape(-1, channels)
        for channel in range(channels):
            counts[channel] += np.bincount(block[:, channel], minlength=256)
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(1)
    variance = counts @ values**2 / counts.sum(1) - mean**2
    std = np.where(variance > 1e-12, np.sqrt(np.maximum(variance, 1e-12)), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())
