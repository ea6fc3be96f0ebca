"""Other ways to write a 3x3 convolution and its kernel's gradient, for XLA on a CPU and natively.

Each runs in the body of a loop, as the blocks of a stage do, on a shape of plain3's stages. The
canonical form and its parts at once are what `autogrow_jax.models.convolution` has; native are this
package's own kernels.

python -m benchmarks.formulations [--repeats 5] [--limit 10] [--batch 128] [--json FILE]
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from autogrow_jax import native
from autogrow_jax.models import convolution
from autogrow_jax.models.convolution import DIMENSION_NUMBERS, why_not_native
from autogrow_jax.process import keep_freed_memory
from benchmarks.convolution import Shape, in_loop, make_operands
from benchmarks.measure import (
    describe_machine,
    print_machine,
    print_table,
    ratio,
    take_turns,
    write_json,
)

Operation = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
_STRIDES, _PADDING = (1, 1), ((1, 1), (1, 1))
CANONICAL = "canonical form"


def _shifted(x: jax.Array) -> list[jax.Array]:
    """What each of the nine taps meets, [N, H, W, C] each."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    _, height, width, _ = x.shape
    return [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]


# --- The forward convolution: (x, kernel, g) -> y.


def _forward_canonical(x, kernel, g):
    return convolution.convolution(x, kernel, _STRIDES, _PADDING)


def _forward_patches(x, kernel, g):
    return jnp.concatenate(_shifted(x), -1) @ kernel.reshape(-1, kernel.shape[3])


def _forward_taps(x, kernel, g):
    taps = kernel.reshape(9, *kernel.shape[2:])
    return sum(part @ tap for part, tap in zip(_shifted(x), taps, strict=True))


def _forward_winograd(x, kernel, g):
    products = jnp.einsum("pnc,pcf->pnf", _transform_inputs(x), _at_points(kernel, _OF_KERNEL))
    tiles = jnp.einsum(
        "ip,jq,pqnf->nijf", *(_TO_OUTPUTS,) * 2, products.reshape(6, 6, -1, g.shape[3])
    )
    return _join(tiles, g.shape)


def _forward_native(x, kernel, g):
    return native.forward(x, kernel, _STRIDES, _PADDING)


# --- The gradient of the kernel: (x, kernel, g) -> [3, 3, C, F].


def _gradient_canonical(x, kernel, g, parts: int = 1):
    with mock.patch.object(convolution, "_PARTS", parts):
        return convolution._kernel_gradient(x, g, _STRIDES, _PADDING)


def _gradient_patches(x, kernel, g):
    patches = jnp.concatenate(_shifted(x), -1).reshape(-1, 9 * x.shape[3])
    return (patches.T @ g.reshape(-1, g.shape[3])).reshape(kernel.shape)


def _gradient_taps(x, kernel, g):
    flat = g.reshape(-1, g.shape[3])
    parts = [part.reshape(-1, x.shape[3]).T @ flat for part in _shifted(x)]
    return jnp.stack(parts).reshape(kernel.shape)


def _gradient_grouped(groups: int, x, kernel, g):
    """A convolution of x^T and g^T for each part of the batch, all in one, summed."""
    size = x.shape[0] // groups
    # [C, H, W, groups * size]: the parts of the batch are groups of features.
    lhs = jnp.transpose(x, (3, 1, 2, 0))
    rhs = jnp.transpose(g.reshape(groups, size, *g.shape[1:]), (2, 3, 1, 0, 4))
    rhs = rhs.reshape(*rhs.shape[:3], groups * g.shape[3])
    found = lax.conv_general_dilated(
        *(lhs, rhs, _STRIDES, _PADDING),
        dimension_numbers=DIMENSION_NUMBERS,
        feature_group_count=groups,
    )
    found = found.reshape(*found.shape[:3], groups, g.shape[3]).sum(3)
    return jnp.transpose(found, (1, 2, 0, 3))


def _gradient_in_turn(parts: int, x, kernel, g):
    """The canonical form for one part of the batch after the other, summed."""
    split = [a.reshape(parts, -1, *a.shape[1:]) for a in (x, g)]

    def add(total, part):
        return total + _gradient_canonical(part[0], kernel, part[1]), None

    return lax.scan(add, jnp.zeros_like(kernel), tuple(split))[0]


def _gradient_winograd(x, kernel, g):
    tiles = _split(g)
    at_points = jnp.einsum("pi,qj,nijf->pqnf", *(_OF_GRADIENT,) * 2, tiles)
    values = at_points.reshape(36, -1, g.shape[3])
    products = jnp.einsum("pnc,pnf->pcf", _transform_inputs(x), values)
    products = products.reshape(6, 6, *products.shape[1:])
    return jnp.einsum("ip,jq,pqcf->ijcf", *(_TO_KERNEL,) * 2, products)


def _gradient_native(x, kernel, g):
    return native.kernel_gradient(x, g, (3, 3), _STRIDES, _PADDING)


# --- Winograd's filtering, as the native kernels have it: products of polynomials at six points.

_POINTS = (0.0, 5 / 8, -5 / 8, 3 / 2, -3 / 2)


def _vandermonde(degree: int, scaled: bool) -> np.ndarray:
    """Values of 1, p, p^2... at the points and at infinity, [6, degree + 1]."""
    rows = []
    for point in _POINTS:
        others = np.prod([point - other for other in _POINTS if other != point])
        rows.append([point**k / (others if scaled else 1.0) for k in range(degree + 1)])
    return np.asarray([*rows, [0.0] * degree + [1.0]], np.float32)


def _input_matrix() -> np.ndarray:
    rows = [np.poly([q for q in _POINTS if q != p])[::-1] for p in _POINTS]
    rows = [np.append(row, 0.0) for row in rows] + [np.poly(_POINTS)[::-1]]
    return np.asarray(rows, np.float32)


_OF_INPUT, _OF_KERNEL, _OF_GRADIENT = _input_matrix(), _vandermonde(2, True), _vandermonde(3, True)
_TO_OUTPUTS, _TO_KERNEL = _vandermonde(3, False).T, _vandermonde(2, False).T


def _transform_inputs(x: jax.Array) -> jax.Array:
    """[36, tiles, C] of images whose sides four divides."""
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    squares = [
        padded[:, i : i + height - 3 : 4, j : j + width - 3 : 4] for i in range(6) for j in range(6)
    ]
    squares = jnp.stack(squares).reshape(6, 6, -1, channels)
    del batch
    return jnp.einsum("pi,qj,ijnc->pqnc", *(_OF_INPUT,) * 2, squares).reshape(36, -1, channels)


def _at_points(kernel: jax.Array, matrix: np.ndarray) -> jax.Array:
    return jnp.einsum("pi,qj,ijcf->pqcf", matrix, matrix, kernel).reshape(36, *kernel.shape[2:])


def _split(images: jax.Array) -> jax.Array:
    """[tiles, 4, 4, C]."""
    batch, height, width, channels = images.shape
    tiles = images.reshape(batch, height // 4, 4, width // 4, 4, channels)
    return jnp.transpose(tiles, (0, 1, 3, 2, 4, 5)).reshape(-1, 4, 4, channels)


def _join(tiles: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    batch, height, width, channels = shape
    tiles = tiles.reshape(batch, height // 4, width // 4, 4, 4, channels)
    return jnp.transpose(tiles, (0, 1, 3, 2, 4, 5)).reshape(shape)


FORMULATIONS: dict[str, dict[str, Operation]] = {
    "forward": {
        CANONICAL: _forward_canonical,
        "a product of patches": _forward_patches,
        "a product a tap": _forward_taps,
        "Winograd's, by products": _forward_winograd,
        "native": _forward_native,
    },
    "kernel gradient": {
        CANONICAL: _gradient_canonical,
        "a product of patches": _gradient_patches,
        "a product a tap": _gradient_taps,
        "grouped over the batch, 4": partial(_gradient_grouped, 4),
        "by parts of the batch in turn, 8": partial(_gradient_in_turn, 8),
        "by parts of the batch at once, 4": partial(_gradient_canonical, parts=4),
        "Winograd's, by products": _gradient_winograd,
        "native": _gradient_native,
    },
}


def measure(kind: str, shape: Shape, repeats: int, limit: float) -> dict[str, Any]:
    """Seconds of each formulation, median over rounds.

    Raises:
      AssertionError: where one computes something else.
    """
    operands = make_operands(shape)
    found = dict(FORMULATIONS[kind])
    if why_not_native():
        del found["native"]
    compiled = {name: jax.jit(in_loop(function)) for name, function in found.items()}
    results = {name: np.asarray(run(operands, jnp.int32(1))) for name, run in compiled.items()}
    expected = results[CANONICAL]
    errors = {
        name: float(np.abs(result - expected).max() / np.abs(expected).max())
        for name, result in results.items()
    }
    if max(errors.values()) > 1e-4:
        raise AssertionError(f"{shape}, {kind}: not the same: {errors}")
    times = take_turns(
        {name: partial(run, operands, jnp.int32(2)) for name, run in compiled.items()},
        repeats,
        limit,
    )
    print(f"measured {shape}, {kind}", file=sys.stderr, flush=True)
    return {
        "kind": kind,
        "shape": str(shape),
        "milliseconds": {name: 500 * float(np.median(each)) for name, each in times.items()},
        "times_of_canonical": {name: ratio(times, name, CANONICAL) for name in times},
        "errors": errors,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; `arguments` default to the process's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.formulations")
    parser.add_argument("--batch", type=int, default=128, help="images")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each cell")
    parser.add_argument("--limit", type=float, default=10, help="seconds a row may take")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(arguments)

    keep_freed_memory()
    machine = describe_machine()
    stages = [(32, 16), (16, 32), (8, 64)]
    shapes = [Shape(options.batch, size, width, width) for size, width in stages]
    rows = {
        kind: [measure(kind, shape, options.repeats, options.limit) for shape in shapes]
        for kind in FORMULATIONS
    }
    for kind, found in rows.items():
        names = list(found[0]["milliseconds"])
        print(f"\n{kind}, milliseconds\n")
        print_table(
            ["formulation", *(row["shape"] for row in found)],
            [[name, *(row["milliseconds"][name] for row in found)] for name in names],
        )
        print(f"\n{kind}, time as a multiple of the canonical form's, median over rounds\n")
        print_table(
            ["formulation", *(row["shape"] for row in found)],
            [[name, *(row["times_of_canonical"][name] for row in found)] for name in names],
        )
    print()
    print_machine(machine)
    write_json(options.json, {"options": vars(options), "machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
