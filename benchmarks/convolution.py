"""Is the canonical form of `autogrow_jax.models.convolution` still needed, and its matrix product?

The package's convolution against JAX's own and the gradients JAX derives from it, each in the
entry computation and in the body of a loop, where XLA's CPU backend has no fast kernel for the
derived gradients. Where "loop jax/ours" is about 1 in all rows, `convolution` can go; where the
second table says about 1, its matrix product can.

python -m benchmarks.convolution [--repeats 5] [--limit 5] [--shapes 9] [--json FILE]
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from autogrow_jax.models import convolution as ours
from autogrow_jax.process import keep_freed_memory
from benchmarks.measure import (
    describe_machine,
    print_machine,
    print_table,
    ratio,
    take_turns,
    write_json,
)


class Shape(NamedTuple):
    """A convolution of square images, padded by (kernel - 1) / 2.

    Attributes:
      batch: images.
      size: their height and width in pixels.
      channels: of the input.
      features: channels of the output.
      stride: in pixels.
      kernel: height and width in pixels.
    """

    batch: int
    size: int
    channels: int
    features: int
    stride: int = 1
    kernel: int = 3

    def __str__(self) -> str:
        stride = f" /{self.stride}" if self.stride > 1 else ""
        return (
            f"{self.batch} x {self.size}x{self.size}x{self.channels}, "
            f"{self.kernel}x{self.kernel}{stride}, {self.features}"
        )


# Those of plain3 and basic3 on 32x32 pixels, then those of small images and wide stages. The wide
# ones have small batches because a derived kernel gradient in a loop takes seconds otherwise.
SHAPES = (
    Shape(128, 8, 64, 64),
    Shape(128, 2, 64, 64),
    Shape(32, 2, 512, 512),
    Shape(128, 32, 16, 16),
    Shape(128, 16, 32, 32),
    Shape(128, 32, 16, 32, stride=2),
    Shape(128, 32, 16, 32, stride=2, kernel=1),
    Shape(128, 32, 1, 16),
    Shape(32, 4, 512, 512),
)
# For the matrix product: around the number of pixels up to which it is used.
TINY = (
    Shape(128, 1, 64, 64),
    Shape(128, 2, 64, 64),
    Shape(128, 4, 64, 64),
    Shape(32, 2, 512, 512),
    Shape(32, 4, 512, 512),
)

KINDS = ("forward", "input gradient", "kernel gradient")
# Measurements of less time than this are made of several calls.
_MIN_SECONDS = 0.01
Convolve = Callable[[jax.Array, jax.Array], jax.Array]


def variants(shape: Shape) -> dict[str, Convolve]:
    """The package's convolution and JAX's, as functions of x and the kernel."""
    pad = (shape.kernel - 1) // 2
    strides, padding = (shape.stride, shape.stride), ((pad, pad), (pad, pad))
    return {
        "ours": lambda x, kernel: ours.convolution(x, kernel, strides, padding),
        "jax": lambda x, kernel: lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=ours.DIMENSION_NUMBERS
        ),
    }


def operation(convolve: Convolve, kind: str) -> Callable[..., jax.Array]:
    """(x, kernel, g) -> the output or one of the gradients."""
    if kind == "forward":
        return lambda x, kernel, g: convolve(x, kernel)
    wanted = KINDS.index(kind) - 1
    return lambda x, kernel, g: jax.vjp(convolve, x, kernel)[1](g)[wanted]


def in_loop(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """(operands, count) -> the result, computed `count` times in the body of a loop."""

    def run(operands: tuple[jax.Array, ...], count: jax.Array) -> jax.Array:
        def body(i: jax.Array, carry: jax.Array) -> jax.Array:
            del carry
            # Behind the barrier the operands depend on i, and nothing can be moved out.
            barred, _ = lax.optimization_barrier((operands, i))
            return function(*barred)

        like = jax.eval_shape(function, *operands)
        return lax.fori_loop(0, count, body, jnp.zeros(like.shape, like.dtype))

    return run


def make_operands(shape: Shape) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x, kernel and a cotangent of the output, random."""
    rng = np.random.default_rng(0)

    def draw(*dims: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(dims), jnp.float32)

    x = draw(shape.batch, shape.size, shape.size, shape.channels)
    kernel = draw(shape.kernel, shape.kernel, shape.channels, shape.features)
    out = jax.eval_shape(variants(shape)["jax"], x, kernel)
    return x, kernel, draw(*out.shape)


def check_equal(functions: dict[str, Callable[..., jax.Array]], operands: Any, what: str) -> None:
    """Raises AssertionError where the variants' results differ by more than rounding."""
    results = [np.asarray(jax.jit(function)(*operands)) for function in functions.values()]
    if not np.allclose(results[0], results[1], rtol=1e-3, atol=1e-4 * np.abs(results[0]).max()):
        raise AssertionError(f"{what}: {' and '.join(functions)} differ")


def measure(
    functions: dict[str, Callable[..., jax.Array]],
    operands: tuple[jax.Array, ...],
    loop: bool,
    repeats: int,
    limit: float,
) -> dict[str, Any]:
    """Milliseconds of each function, and how many times the first takes the second takes."""
    timed: dict[str, Callable[[], Any]] = {}
    counts = {}
    for name, function in functions.items():
        run: Callable[[int], Any]
        if loop:
            run = partial(_loop, jax.jit(in_loop(function)), operands)
        else:
            run = partial(_calls, jax.jit(function), operands)
        once = take_turns({name: partial(run, 1)}, 1)[name][0]
        counts[name] = max(1, int(_MIN_SECONDS / once))
        timed[name] = partial(run, counts[name])
    times = take_turns(timed, repeats, limit)
    each = {name: [t / counts[name] for t in found] for name, found in times.items()}
    first, second = functions
    return {
        "milliseconds": {name: 1000 * median(found) for name, found in each.items()},
        "ratio": ratio(each, second, first),
    }


def _loop(compiled: Callable, operands: tuple[jax.Array, ...], count: int) -> jax.Array:
    return compiled(operands, jnp.int32(count))


def _calls(compiled: Callable, operands: tuple[jax.Array, ...], count: int) -> list[jax.Array]:
    return [compiled(*operands) for _ in range(count)]


def measure_shape(shape: Shape, repeats: int, limit: float) -> list[dict[str, Any]]:
    """A row for the output and each of the gradients."""
    operands = make_operands(shape)
    rows = []
    for kind in KINDS:
        functions = {name: operation(f, kind) for name, f in variants(shape).items()}
        check_equal(functions, operands, f"{shape}, {kind}")
        places = {
            place: measure(functions, operands, place == "loop", repeats, limit)
            for place in ("entry", "loop")
        }
        rows.append({"shape": str(shape), "kind": kind, **places})
        print(f"measured {shape}, {kind}", file=sys.stderr, flush=True)
    return rows


def measure_tiny(shape: Shape, repeats: int, limit: float) -> dict[str, Any]:
    """The forward convolution as a matrix product and as a convolution, in a loop."""
    pad = (shape.kernel - 1) // 2

    def forward(most_pixels: int, x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        with mock.patch.object(ours, "_MATRIX_PRODUCT_PIXELS", most_pixels):
            return ours._convolve_undilated(x, kernel, (1, 1), ((pad, pad), (pad, pad)))

    functions: dict[str, Callable[..., jax.Array]] = {
        "product": partial(forward, shape.size**2),
        "convolution": partial(forward, 0),
    }
    operands = make_operands(shape)
    check_equal(functions, operands, str(shape))
    return {"shape": str(shape), **measure(functions, operands, True, repeats, limit)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; `arguments` default to the process's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convolution")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each cell")
    parser.add_argument("--limit", type=float, default=5, help="seconds a pair of cells may take")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of the shapes")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(arguments)
    keep_freed_memory()  # As `training.run` does.

    machine = describe_machine()
    rows = [
        row
        for shape in SHAPES[: options.shapes]
        for row in measure_shape(shape, options.repeats, options.limit)
    ]
    tiny = [measure_tiny(shape, options.repeats, options.limit) for shape in TINY]
    print("\nmilliseconds; jax/ours: how many times as long JAX's own takes\n")
    print_table(
        [
            "batch x image, kernel, features",
            "",
            "entry ours",
            "entry jax",
            "entry jax/ours",
            "loop ours",
            "loop jax",
            "loop jax/ours",
        ],
        [
            [row["shape"], row["kind"]]
            + [
                value
                for place in ("entry", "loop")
                for value in (*row[place]["milliseconds"].values(), row[place]["ratio"])
            ]
            for row in rows
        ],
    )
    print("\nforward in a loop, as one matrix product and as a convolution, milliseconds\n")
    print_table(
        ["batch x image, kernel, features", "product", "convolution", "convolution/product"],
        [[row["shape"], *row["milliseconds"].values(), row["ratio"]] for row in tiny],
    )
    print_machine(machine)
    write_json(
        options.json, {"options": vars(options), "machine": machine, "rows": rows, "tiny": tiny}
    )


if __name__ == "__main__":
    main()
