"""How operations of our own are derived, or in words not at all, and how many run side by side.

An array that passes `guard` is what it was; what is derived through it meets a primitive that can
be evaluated, or transposed, or neither: forward mode evaluates, reverse mode transposes.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from autogrow_jax.errors import UserError


def guard(tree: Any, *, forward: str = "", reverse: str = "") -> Any:
    """Returns the tree; a UserError says so where it is derived in a way that there is not.

    Args:
      tree: of arrays, which are guarded where they are real numbers, and anything else.
      forward, reverse: why there is no forward or reverse mode through them; "" where there is.
        Without either, the attempt is refused while it is traced.
    """

    def one(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating):
            return _guarded.bind(leaf, forward=forward, reverse=reverse)
        return leaf

    return jax.tree.map(one, tree)


def reverse_mode(*static: int, forward: str) -> Callable[[Callable[..., Any]], Any]:
    """Makes a function with a gradient of its own: `jax.custom_vjp`, which refuses in words.

    Args:
      *static: positions of the arguments that are no arrays.
      forward: why there is no forward mode.

    Returns:
      A decorator; what it returns has `defvjp`.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        inner = jax.custom_vjp(function, nondiff_argnums=static)

        @wraps(function)
        def run(*arguments: Any) -> Any:
            try:
                return inner(*guard(arguments, forward=forward))
            except (TypeError, NotImplementedError) as error:
                # Tangents that are constants, derived again: JAX's own part is met before ours.
                if "custom_lin" in str(error) or "forward-mode" in str(error):
                    raise UserError(forward) from error
                raise

        vars(run)["defvjp"] = inner.defvjp
        return run

    return decorate


def _derive(primals, tangents, *, forward, reverse):
    (x,), (tangent,) = primals, tangents
    if forward and reverse:
        raise UserError(forward)
    # Not bound again: what a gradient needs is found by being the very array that was given.
    return x, _tangent.bind(tangent, forward=forward, reverse=reverse)


def _evaluate(x, *, forward, reverse):
    if forward:
        raise UserError(forward)
    return x


def _derive_again(primals, tangents, *, forward, reverse):
    if forward:
        raise UserError(forward)
    (x,), (tangent,) = primals, tangents
    why = {"forward": forward, "reverse": reverse}
    return _tangent.bind(x, **why), _tangent.bind(tangent, **why)


def _transpose(cotangent, _, *, forward, reverse):
    if reverse:
        raise UserError(reverse)
    return (cotangent,)


_guarded, _tangent = Primitive("guarded"), Primitive("guarded_tangent")
_guarded.def_impl(lambda x, **_: x)
mlir.register_lowering(_guarded, lambda context, x, **_: [x])
ad.primitive_jvps[_guarded] = _derive
_tangent.def_impl(_evaluate)
mlir.register_lowering(_tangent, mlir.lower_fun(_evaluate, multiple_results=False))
ad.primitive_jvps[_tangent] = _derive_again
ad.primitive_transposes[_tangent] = _transpose
for _one in (_guarded, _tangent):
    _one.def_abstract_eval(lambda x, **_: x)
    batching.primitive_batchers[_one] = lambda operands, axes, _one=_one, **why: (
        _one.bind(*operands, **why),
        axes[0],
    )


def make_bilinear(
    name: str,
    compute: Callable[..., jax.Array],
    shared: dict[tuple[int, int], int],
    static: tuple[str, ...],
) -> Primitive:
    """Makes a primitive of a form that is linear in three arrays, any two of which give the third.

    It asks for one of the three and takes the other two in order; its derivatives of any order, and
    those of many side by side, are itself.

    Args:
      name: of the primitive.
      compute: (a, b, *, wanted, **static) -> the array number `wanted`; all three of rank 4.
      shared: (one array, another) -> the axis of the first, from the end, that it has in common
        with the other and not with the third: there many of the first alone can be one.
      static: names of the other arguments.
    """
    primitive = Primitive(name)

    def run(a, b, **how):
        if a.ndim == 4:
            return compute(a, b, **how)
        # Pairs, one after the other: each of `a` with its own of `b`.
        return lax.map(lambda pair: compute(*pair, **how), (a, b))

    def others(wanted: int) -> list[int]:
        return [number for number in range(3) if number != wanted]

    def transpose(which, cotangent, a, b, *, wanted, **how):
        """The gradient of operand `which`: it is wanted, and what was wanted is known."""
        numbers = others(wanted)
        known = {numbers[1 - which]: (a, b)[1 - which], wanted: cotangent}
        operands = (known[number] for number in sorted(known))
        return primitive.bind(*operands, wanted=numbers[which], **how)

    def batch(operands, axes, *, wanted, **how):
        if None not in axes:
            a, b = (jnp.moveaxis(one, axis, 0) for one, axis in zip(operands, axes, strict=True))
            lead = a.shape[:-4]
            pairs = (one.reshape(-1, *one.shape[-4:]) for one in (a, b))
            found = primitive.bind(*pairs, wanted=wanted, **how)
            return found.reshape(*lead, *found.shape[-4:]), 0
        # One operand alone: for a convolution, more images or more channels.
        which = int(axes[0] is None)
        number, operands = others(wanted)[which], list(operands)
        one = operands[which]
        count, ndim = one.shape[axes[which]], one.ndim - 1
        axis = ndim + shared[number, wanted]
        one = jnp.moveaxis(one, axes[which], axis)
        operands[which] = one.reshape(*one.shape[:axis], -1, *one.shape[axis + 2 :])
        found = primitive.bind(*operands, wanted=wanted, **how)
        axis = ndim + shared[wanted, number]
        return found.reshape(*found.shape[:axis], count, -1, *found.shape[axis + 1 :]), axis

    def shape_of(*operands, **how):
        return jax.make_jaxpr(partial(run, **how))(*operands).out_avals[0]

    primitive.def_impl(jax.jit(run, static_argnames=("wanted", *static)))
    primitive.def_abstract_eval(shape_of)
    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=False))
    ad.defbilinear(primitive, partial(transpose, 0), partial(transpose, 1))
    batching.primitive_batchers[primitive] = batch
    return primitive


@jax.custom_batching.custom_vmap
def turns_of(depth: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How often a loop runs, and whether all its turns are live: for one net `depth`, and yes.

    For nets side by side the deepest one's, so that all read and write the same slot at a time.
    """
    return depth, jnp.bool_(True)


@turns_of.def_vmap
def _of_many(size, is_batched, depths):
    return (turns_of(jnp.max(depths))[0], jnp.bool_(False)), (False, False)


class PullbackParts:
    """Takes a block's pullback apart into arrays to keep, and puts it together again.

    A pullback that `jax.vjp` returns is a pytree: its leaves are the arrays the gradient needs.
    Those that are the block's own parameters or statistics are not kept a second time.
    """

    def __init__(self, pullback, params, stats, x):
        def leaves_of(params, stats, x):
            _, vjp, _ = pullback(params, stats, x)
            leaves, self._treedef = jax.tree.flatten(vjp)
            inputs = [*jax.tree.leaves(params), *jax.tree.leaves(stats)]
            # Position among the inputs, or None where the leaf has to be kept.
            self._source = [
                next((i for i, given in enumerate(inputs) if given is leaf), None)
                for leaf in leaves
            ]
            return self.to_save(vjp)

        self.saved = jax.eval_shape(leaves_of, params, stats, x)

    def to_save(self, vjp):
        leaves = zip(jax.tree.leaves(vjp), self._source, strict=True)
        return [leaf for leaf, source in leaves if source is None]

    def restore(self, params, stats, saved):
        inputs = [*jax.tree.leaves(params), *jax.tree.leaves(stats)]
        kept = iter(saved)
        leaves = [next(kept) if source is None else inputs[source] for source in self._source]
        return jax.tree.unflatten(self._treedef, leaves)


def frame(x: jax.Array) -> jax.Array:
    """Adds a pixel of zeros on all sides of [N, H, W, C], by what ONNX takes for any N."""
    for axis in (1, 2):
        edge = jnp.zeros_like(lax.slice_in_dim(x, 0, 1, axis=axis))
        x = jnp.concatenate([edge, x, edge], axis)
    return x


def max_pool(x: jax.Array, size: int = 3, stride: int = 2) -> jax.Array:
    """Pools [N, H, W, C] by the largest in each window, without padding.

    The gradient goes to the first of equals, as that of `flax.linen.max_pool`, but by additions in
    a fixed order: JAX's own scatters, which a GPU does in any order.
    """
    rows, columns = (stride * ((n - size) // stride) + 1 for n in x.shape[1:3])
    found = None
    for row in range(size):
        for column in range(size):
            start, end = (0, row, column, 0), (len(x), row + rows, column + columns, x.shape[3])
            part = lax.slice(x, start, end, (1, stride, stride, 1))
            if found is None:
                found = part
            else:
                found = jnp.where((part > found) | jnp.isnan(part), part, found)
    assert found is not None
    return found
