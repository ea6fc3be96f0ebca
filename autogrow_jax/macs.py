"""What a function multiplies, by its jaxpr and shapes alone; it knows no network."""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import jax

from autogrow_jax.errors import UserError

# The primitive of `models.convolution`.
CANONICAL = "canonical_convolution"


def count_macs(function: Callable[..., Any], *inputs: Any) -> int:
    """Counts the multiply-adds of `function(*inputs)`; only shapes matter.

    Those of convolutions and of matrix products count; sums, activations and pooling do not.

    Raises:
      UserError: for products that cannot be counted before they are computed: in a loop of unknown
        length, in branches of unlike cost, or behind an operation that hides them.

    >>> x, kernel = jax.ShapeDtypeStruct((8, 3), "float32"), jax.ShapeDtypeStruct((3, 5), "float32")
    >>> count_macs(lambda x, kernel: x @ kernel, x, kernel)
    120
    """
    return _macs(jax.make_jaxpr(function)(*inputs).jaxpr)


# Run the one jaxpr they hold once. Names differ between versions of JAX.
_CALLS = {
    *("jit", "pjit", "closed_call", "core_call", "composite", "remat", "remat2", "checkpoint"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_vmap_call"),
}
# Multiply, or may, without saying how much.
_OPAQUE = {"ffi_call", "pure_callback", "io_callback", "ragged_dot", "ragged_dot_general"}
_WAYS_OUT = {
    "while": "its length is not known; lax.scan, or lax.fori_loop between constants, is counted",
    "cond": "its branches take {inside} multiply-adds; make them alike",
}


def _macs(jaxpr: Any) -> int:
    """The multiply-adds of running a jaxpr once."""
    return sum(map(_eqn_macs, jaxpr.eqns))


def _eqn_macs(eqn: Any) -> int:
    name = eqn.primitive.name
    if name == "conv_general_dilated":
        return _convolution_macs(eqn)
    if name == CANONICAL:
        shapes = [var.aval.shape for var in eqn.invars]
        shapes.insert(eqn.params["wanted"], eqn.outvars[0].aval.shape)
        _, kernel, y = shapes
        return prod(y) * prod(kernel[-4:-1])
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        x = eqn.invars[0].aval.shape
        return prod(eqn.outvars[0].aval.shape) * prod(x[axis] for axis in contracted)
    inside = [_macs(jaxpr) for jaxpr in _jaxprs_in(eqn.params)]
    if name not in _OPAQUE:
        if not any(inside):
            return 0
        if name == "scan":
            return eqn.params["length"] * inside[0]
        if name in _CALLS or (name == "cond" and len(set(inside)) == 1):
            return inside[0]
    way_out = _WAYS_OUT.get(name, "write the block with convolutions and matrix products")
    raise UserError(
        f"a block's multiply-adds inside the operation {name!r} cannot be counted: "
        + way_out.format(inside=" and ".join(map(str, inside)))
    )


def _jaxprs_in(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(item, "jaxpr", item)  # Closed over constants, or not.
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def _convolution_macs(eqn: Any) -> int:
    x, kernel = (var.aval.shape for var in eqn.invars)
    y = eqn.outvars[0].aval.shape
    lhs_spec, _, out_spec = eqn.params["dimension_numbers"]
    # Each place meets each kernel entry once. The places are those of the output; where the input
    # is dilated (a transposed convolution), most entries would meet its holes, and they are those
    # of the input.
    axes = zip(out_spec[2:], lhs_spec[2:], eqn.params["lhs_dilation"], strict=True)
    places = [y[out] if dilation == 1 else x[of] for out, of, dilation in axes]
    return y[out_spec[0]] * prod(places) * prod(kernel)
