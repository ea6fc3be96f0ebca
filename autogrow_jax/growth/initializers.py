"""How a new block starts (PAPER: "Initialisers of a new block").

An initialiser is given a block with the family's random start, and changes what it wants.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from autogrow_jax.errors import Registry, UserError
from autogrow_jax.models import Family
from autogrow_jax.models.layers import EPSILON

Variables = dict[str, Any]
Path = tuple[str, ...]


class Context(NamedTuple):
    """What an initialiser may look at; variables of a block are as it is given them.

    Attributes:
      family, stage: of the network that grows, and the index of the stage that does.
      slot: the new block's entry in the stage's stacked axis, int32; 0 is behind `first`.
      depths: blocks in each stage before the growth, int32 [num_stages].
      previous: variables of the block before. Where that is the stage's first, leaves that it has
        not, or in another shape, are the new block's random start.
      stage_blocks: variables of the stage's stacked blocks, leaves [slots, ...]; those before
        `slot` are live, what stands in others means nothing.
      inputs: what enters the new block, [N, H, W, C], by running statistics, or for an identity
        as in training; None without a batch.
      outputs: block_variables -> what that block makes of `inputs`, by its running statistics.
      loss: block_variables -> (mean loss, the block's new running statistics) of the
        network with this block on the same batch, in training mode; None without labels.
      ema: parameters of the block before in the moving average of the weights; None without one.
    """

    family: Family
    stage: int = 0
    slot: jax.Array | int = 0
    depths: jax.Array | tuple[int, ...] = ()
    previous: Variables | None = None
    stage_blocks: Variables | None = None
    inputs: jax.Array | None = None
    outputs: Callable[[Variables], jax.Array] | None = None
    loss: Callable[[Variables], tuple[jax.Array, Any]] | None = None
    ema: Any = None


InitializerFn = Callable[[jax.Array, Variables, Context], Variables]


class Initializer(NamedTuple):
    """A start of a block and the data it needs.

    Attributes:
      start: (key, block_variables, context) -> block_variables, pure, run inside `jax.jit`: one
        block's "params" and, if any, "batch_stats", whose structure, shapes, dtypes have to stay.
      needs_images: whether it reads `context.inputs`; or of which families it does.
      needs_labels: whether it calls `context.loss`, for which it needs images too.
      pretrain: whether the training loop, which gives `start` no loss then, trains the new block
        by Adam for some epochs, all else frozen (PAPER: "Initialisers of a new block").
      identity: whether the block it starts has to compute the identity, which is checked.
      name: what it is registered as.
    """

    start: InitializerFn
    needs_images: bool | Callable[[Family], bool] = False
    needs_labels: bool = False
    pretrain: bool = False
    identity: bool = False
    name: str = ""

    def needs_data(self, family: Family) -> bool:
        """Whether it looks at a batch when it starts a block of this family."""
        needs = self.needs_images
        return self.needs_labels or (needs(family) if callable(needs) else needs)


def find_leaves(family: Family, params: Any) -> dict[Path, jax.Array]:
    """Finds what decides of a block's parameters whether it is the identity.

    That is what `Family.identity` names, of a plain block the kernels; UserError where it has none.
    """
    flat = flatten_dict(params)
    found: dict[Path, jax.Array] = {}
    for name in family.zeros or ((),):
        paths = [p for p in flat if (p[: len(name)] == name if name else p[-1] == "kernel")]
        if not paths:
            field = "last_bn" if family.residual and not family.identity else "identity"
            raise UserError(
                f"the family's {field} is {'/'.join(name)!r}, but a block has"
                f" {', '.join(map('/'.join, flat))}; say in Family(identity=...) what is zero where"
                " a block is the identity, or choose the initializer 'default' or one of your own"
            )
        # Scale before bias, whatever the order of the tree.
        found |= {path: flat[path] for path in sorted(paths, reverse=True)}
    return found


def _write(block: Variables, new: dict[Path, jax.Array]) -> Variables:
    return {**block, "params": unflatten_dict(flatten_dict(block["params"]) | new)}


def _draw(key: jax.Array, block: Variables, family: Family, law) -> Variables:
    """Draws what decides by law(key, fan_in, shape, dtype), fan_in of what is no kernel None."""
    leaves = find_leaves(family, block["params"])
    layers = sorted({path[:-1] for path in flatten_dict(block["params"])})
    keys, new = iter(jax.random.split(key, len(leaves))), {}
    for path, leaf in leaves.items():
        own = next(keys) if family.zeros else jax.random.fold_in(key, layers.index(path[:-1]))
        fan_in = leaf.size // leaf.shape[-1] if leaf.shape else 1
        is_kernel = path[-1] == "kernel" or fan_in > 1
        new[path] = law(own, fan_in if is_kernel else None, leaf.shape, leaf.dtype)
    return _write(block, new)


def uniform(key: jax.Array, block: Variables, context: Context) -> Variables:
    """Residual: scale and shift of the last BN U[0, 1). Plain: kernels U(+-sqrt(6 / fan_in)).

    What else a family's `identity` names: kernels as in plain blocks, all others as in the last BN.
    """

    def law(key, fan_in, shape, dtype):
        bound = (6 / fan_in) ** 0.5 if fan_in else 1.0
        return jax.random.uniform(key, shape, dtype, -bound if fan_in else 0.0, bound)

    return _draw(key, block, context.family, law)


def gaussian(key: jax.Array, block: Variables, context: Context) -> Variables:
    """As `uniform`, from N(0, 1) and N(0, 2 / fan_in)."""

    def law(key, fan_in, shape, dtype):
        return (2 / fan_in if fan_in else 1.0) ** 0.5 * jax.random.normal(key, shape, dtype)

    return _draw(key, block, context.family, law)


def morphism(key: jax.Array, block: Variables, context: Context) -> Variables:
    """Network morphism: the block is the identity, the network computes what it computed.

    Residual: what the family's `identity` names is zero. Plain: the identity kernel, behind another
    block's ReLU, and a BN that undoes itself by any mean and variance. Those of its inputs in
    training leave training as it is, too, though running statistics lag behind.
    """
    leaves, new = find_leaves(context.family, block["params"]), {}
    if context.family.zeros:
        return _write(block, {path: jnp.zeros_like(leaf) for path, leaf in leaves.items()})
    for path, leaf in flatten_dict(block["params"]).items():
        if path[-1] in ("kernel", "bias"):
            new[path] = _identity_kernel(leaf) if path in leaves else jnp.zeros_like(leaf)
    stats = flatten_dict(block.get("batch_stats", {}))
    if not stats:
        return _write(block, new)
    if context.inputs is None:
        raise UserError(
            f"a block of family {context.family.name!r} has batch_stats, but the family says"
            " batch_norm=False; set batch_norm=True, so that 'morphism' is given images"
        )
    inputs = context.inputs.astype(jnp.float32)
    mean, var = jnp.mean(inputs, (0, 1, 2)), jnp.var(inputs, (0, 1, 2))
    for *layer, _ in stats:
        new |= {(*layer, "scale"): jnp.sqrt(var + EPSILON), (*layer, "bias"): mean}
    stats = {path: mean if path[-1] == "mean" else var for path in stats}
    return {**_write(block, new), "batch_stats": unflatten_dict(stats)}


def _identity_kernel(kernel: jax.Array) -> jax.Array:
    *size, fan_in, features = kernel.shape  # Of a depthwise one, fan_in is 1.
    eye = jnp.arange(fan_in)[:, None] == jnp.arange(features) % fan_in
    return jnp.zeros_like(kernel).at[tuple(n // 2 for n in size)].set(eye.astype(kernel.dtype))


def trained_by_adam(family: Family, path: tuple[Any, ...]) -> bool:
    """Whether Adam pre-training changes a parameter: what `Family.zeros` names, or else all."""
    names = tuple(key.key for key in path)
    return not family.zeros or any(names[: len(name)] == name for name in family.zeros)


def adam(key: jax.Array, block: Variables, context: Context) -> Variables:
    """The family's random start, then Adam on the new block alone, all else frozen.

    Here on the context's batch, for 100 steps; the training loop gives no loss and does what the
    paper does: epochs of the training set, at most 10, until the accuracy is back.
    """
    if context.family.zeros:
        find_leaves(context.family, block["params"])  # Nothing to train is an error.
    if (loss := context.loss) is None:
        return block
    optimizer = make_adam()

    def move(path, update):
        return update if trained_by_adam(context.family, path) else jnp.zeros_like(update)

    def step(_, carry):
        params, stats, state = carry
        gradient_of = jax.grad(lambda p: loss({"params": p, "batch_stats": stats}), has_aux=True)
        grads, stats = gradient_of(params)
        updates, state = optimizer.update(grads, state, params)
        updates = jax.tree_util.tree_map_with_path(move, updates)
        return optax.apply_updates(params, updates), stats, state

    carry = block["params"], block.get("batch_stats", {}), optimizer.init(block["params"])
    params, stats, _ = lax.fori_loop(0, 100, step, carry)
    return {**block, "params": params, **({"batch_stats": stats} if stats else {})}


def make_adam() -> optax.GradientTransformation:
    """The paper's optimiser for pre-training a block: rate 1e-3, L2 5e-4 in the gradient."""
    return optax.chain(optax.add_decayed_weights(5e-4), optax.scale_by_adam(), optax.scale(-1e-3))


_MORPHISM = Initializer(morphism, lambda f: f.batch_norm and not f.zeros, identity=True)
_OURS = {
    "morphism": _MORPHISM,
    "zero": _MORPHISM,
    "uniform": Initializer(uniform),
    "gaussian": Initializer(gaussian),
    "adam": Initializer(adam, needs_labels=True, pretrain=True),
    "default": Initializer(lambda key, block, context: block),  # The family's own start.
}
INITIALIZERS: Registry[Initializer] = Registry(
    "initializer", {name: ours._replace(name=name) for name, ours in _OURS.items()}
)
get_initializer = INITIALIZERS.find


def register_initializer(
    name: str,
    start: InitializerFn,
    *,
    needs_images: bool | Callable[[Family], bool] = False,
    needs_labels: bool = False,
    pretrain: bool = False,
    identity: bool = False,
) -> None:
    """Adds an `Initializer` of one's own to the names; UserError where its name is taken."""
    needs = needs_labels or needs_images, needs_labels
    INITIALIZERS.register(name, Initializer(start, *needs, pretrain, identity, name))
