"""What a step would take if nothing but arithmetic and memory's speed counted.

Floating-point operations are those of convolutions and matrix products. Bytes are the least that a
training step has to move where everything between two convolutions is done while these read and
write: a convolution reads x and writes y; the gradients of its batch normalisation need sums over
y and g that are complete before the rest begins, so these two are read three times, for the sums
and for the gradients of x and of the kernel, which write, and read, x. That is 3 x + 7 y for each
convolution. An evaluation moves x + y. What the machine can do is measured: a plain pass over a
large array, and a large matrix product.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from autogrow_jax.macs import CANONICAL
from autogrow_jax.models import Network, num_params
from autogrow_jax.models.cost import estimate_cost
from benchmarks.measure import take_turns

# Of x and y of each convolution, by what a step does.
_READS_AND_WRITES = {"train": (3, 7), "evaluate": (1, 1)}
# Multiply-adds: the gradients of input and kernel take as many as the output.
_PASSES = {"train": 3, "evaluate": 1}
# Parameter, gradient and momentum: read and written by the gradient and by the update.
_OF_PARAMETERS = {"train": 6, "evaluate": 1}


class Limits(NamedTuple):
    """What a machine reached.

    Attributes:
      bytes_per_second: read and written, of a plain pass over a large array.
      flops_per_second: of a large matrix product.
    """

    bytes_per_second: float
    flops_per_second: float


class Work(NamedTuple):
    """What a step has to do.

    Attributes:
      flops: floating-point operations.
      bytes: the least that is read and written.
    """

    flops: float
    bytes: float

    def seconds(self, limits: Limits) -> float:
        """The least it takes, arithmetic and memory going on at the same time."""
        return max(self.flops / limits.flops_per_second, self.bytes / limits.bytes_per_second)


def measure_limits(dtype: str, repeats: int = 5) -> Limits:
    """Measures the default device, in numbers of a dtype."""
    is_cpu = jax.default_backend() == "cpu"
    side, length = (2048, 2**26) if is_cpu else (8192, 2**30)
    itemsize = jnp.dtype(dtype).itemsize
    matrix = jnp.ones((side, side), dtype)
    array = jnp.ones(length // itemsize, dtype)
    product, double = jax.jit(jnp.matmul), jax.jit(lambda x: x + x)
    times = take_turns(
        {"product": lambda: product(matrix, matrix), "pass": lambda: double(array)}, repeats
    )
    return Limits(
        2 * itemsize * array.size / min(times["pass"]), 2 * side**3 / min(times["product"])
    )


def count_work(network: Network, image_shape: tuple[int, int, int], batch: int, kind: str) -> Work:
    """Counts what a step on `batch` images of 12x12 pixels or more does.

    Args:
      network: at its depths, with XLA's convolutions, as the custom ones hide what they read.
      image_shape: (H, W, C).
      batch: images.
      kind: "train" or "evaluate".
    """
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    jaxpr = jax.make_jaxpr(lambda v, x: network.apply(v, x, False))(variables, images)
    of_x, of_y = _READS_AND_WRITES[kind]
    moved = sum(times * (of_x * x + of_y * y) for x, y, times in _find_convolutions(jaxpr.jaxpr))
    moved += 4 * _OF_PARAMETERS[kind] * num_params(variables)
    flops = _PASSES[kind] * estimate_cost(network, image_shape).flops * batch
    return Work(flops, moved)


def _find_convolutions(jaxpr: Any) -> Iterator[tuple[int, int, int]]:
    """Bytes of x and y of each convolution, and how often it is run."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("conv_general_dilated", CANONICAL):
            yield *(_bytes(var) for var in (eqn.invars[0], eqn.outvars[0])), 1
        length = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)  # Closed over constants, or not.
            if hasattr(inner, "eqns"):
                yield from ((x, y, times * length) for x, y, times in _find_convolutions(inner))


def _bytes(var: Any) -> int:
    return prod(var.aval.shape) * var.aval.dtype.itemsize
