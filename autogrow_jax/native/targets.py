"""The custom calls of the library by name, and whether they can be used."""

from collections.abc import Sequence
from functools import cache
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autogrow_jax.derivatives import guard
from autogrow_jax.native.build import load

_SYMBOLS = {
    "autogrow_forward": "AutogrowForward",
    "autogrow_input_gradient": "AutogrowInputGradient",
    "autogrow_kernel_gradient": "AutogrowKernelGradient",
    "autogrow_empty": "AutogrowEmpty",
    "autogrow_layer": "AutogrowLayer",
    "autogrow_evaluated_layer": "AutogrowEvaluatedLayer",
    "autogrow_normalization_gradient": "AutogrowNormalizationGradient",
    "autogrow_layer_input_gradient": "AutogrowLayerInputGradient",
    "autogrow_layer_kernel_gradient": "AutogrowLayerKernelGradient",
    "autogrow_stack": "AutogrowStack",
    "autogrow_stack_gradient": "AutogrowStackGradient",
    "autogrow_evaluated_stack": "AutogrowEvaluatedStack",
}

NO_FORWARD = (
    "convolution='native' has no forward mode (jax.jvp, jax.linearize, jax.jacfwd, jax.hessian);"
    " build the network with convolution='xla', which takes the same variables"
)
NO_SECOND = (
    "convolution='native' has first derivatives only, by reverse mode (jax.grad, jax.vjp); build"
    " the network with convolution='xla', which takes the same variables"
)

# Of a processor on which nobody misses them.
NO_GAIN = "without AVX2 they are slower than XLA's"

Shape = tuple[int, ...]
# A name is registered once, and `cache` lets two threads in.
_registering = Lock()


def why_unavailable() -> str:
    """Why the custom calls cannot be used, one line; "" where they can. Builds them if need be."""
    with _registering:
        return _register()


@cache
def _register() -> str:
    library = load()
    if library.handle is None:
        return library.reason
    if not library.handle.AutogrowIsFast():
        return NO_GAIN
    for target, symbol in _SYMBOLS.items():
        handler = jax.ffi.pycapsule(getattr(library.handle, symbol))
        jax.ffi.register_ffi_target(target, handler, platform="cpu")
    return ""


def call(target: str, results: Sequence[Shape], *operands: jax.Array, **attributes: Any) -> Any:
    """Calls a target whose results are float32 arrays of these shapes; a list of them."""
    others = {str(operand.dtype) for operand in operands} - {"float32", "int32"}
    if others:  # The calls read bytes, whatever they are.
        raise TypeError(f"{target} takes float32 and not {', '.join(sorted(others))}")
    types = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in results]
    function = jax.ffi.ffi_call(target, types, vmap_method="sequential")
    typed = {
        name: np.bool_(value) if isinstance(value, bool) else np.int64(value)
        for name, value in attributes.items()
    }
    return function(*guard(operands, forward=NO_SECOND, reverse=NO_SECOND), **typed)
