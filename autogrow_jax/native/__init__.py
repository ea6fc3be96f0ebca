"""Experimental: convolutions in C++ for the CPU, built on first use with the compiler at hand.

A run uses them by itself (docs/native.md); what is here is for layers of one's own.
"""

from autogrow_jax.native.build import has_to_build, library_name
from autogrow_jax.native.convolution import (
    empty,
    forward,
    input_gradient,
    is_supported,
    kernel_gradient,
    output_shape,
)
from autogrow_jax.native.layers import EPSILON, KEPT, evaluated_layer, layer
from autogrow_jax.native.stacks import LayerStatistics, StackLayer, evaluated_stack, stack
from autogrow_jax.native.targets import NO_GAIN, why_unavailable

__all__ = [
    "EPSILON",
    "KEPT",
    "NO_GAIN",
    "LayerStatistics",
    "StackLayer",
    "empty",
    "evaluated_layer",
    "evaluated_stack",
    "forward",
    "has_to_build",
    "input_gradient",
    "is_supported",
    "kernel_gradient",
    "layer",
    "library_name",
    "output_shape",
    "stack",
    "why_unavailable",
]
