"""Convolutions in C++ for the CPU, built on first use where there is a compiler."""

from autogrow_jax.models.native.convolution import (
    empty,
    forward,
    input_gradient,
    is_supported,
    kernel_gradient,
    why_unavailable,
)

__all__ = [
    "empty",
    "forward",
    "input_gradient",
    "is_supported",
    "kernel_gradient",
    "why_unavailable",
]
