"""The gradient of a batch, put together of its parts where the whole does not fit."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def differentiate_parts(
    differentiate: Callable[..., Any],
    parts: int,
    stats: Any,
    batch: tuple[jax.Array, ...],
    spread: Callable[[jax.Array], jax.Array],
) -> Any:
    """Averages losses and gradients over the parts of a batch, taken one after the other.

    Row r belongs to part r modulo `parts`: so each part lies on all devices as the batch does, and
    is the same on any number of them. Each is normalised by its own statistics and moves the
    running ones, so that they move `parts` times in a step.

    Args:
      differentiate: (stats, *part) -> ((loss, (correct, stats)), gradients), of a part's means.
      stats: running statistics.
      batch: arrays of as many rows, which `parts` divides.
      spread: has rows lie on the devices.

    Returns:
      What `differentiate` would of the whole batch.
    """
    if parts == 1:
        return differentiate(stats, *batch)

    def cut(array: jax.Array) -> jax.Array:
        return array.reshape(-1, parts, *array.shape[1:]).swapaxes(0, 1)

    def add(carry: Any, part: tuple[jax.Array, ...]) -> tuple[Any, None]:
        stats, total = carry
        (loss, (correct, stats)), gradients = differentiate(stats, *map(spread, part))
        return (stats, jax.tree.map(jnp.add, total, (loss, correct, gradients))), None

    cuts = tuple(map(cut, batch))
    (loss, (correct, _)), gradients = jax.eval_shape(differentiate, stats, *(c[0] for c in cuts))
    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (loss, correct, gradients))
    (stats, (loss, correct, gradients)), _ = lax.scan(add, (stats, zero), cuts)
    return (loss / parts, (correct, stats)), jax.tree.map(lambda g: g / parts, gradients)
