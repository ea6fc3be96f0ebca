"""How a new block starts (PAPER: "Initialisers of a new block").

An initialiser is given a block with the family's random start, and changes what it wants.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from autogrow_jax.errors import Registry, UserError
from autogrow_jax.models import Family
from autogrow_jax.models.layers import EPSILON

Variables = dict[str, Any]
STACKED = "rest"  # The key under which a stage holds its stacked blocks.


class Context(NamedTuple):
    """What an initialiser may look at; variables of a block are as it is given them.

    Attributes:
      family: of the network that grows.
      stage: index of the stage that grows.
      slot: the new block's entry in the stage's stacked axis, int32; 0 is behind `first`.
      depths: blocks in each stage before the growth, int32 [num_stages].
      previous: variables of the block before. Where that is the stage's first, leaves that it has
        not, or in another shape, are the new block's random start.
      stage_blocks: variables of the stage's stacked blocks, leaves [slots, ...]; those before
        `slot` are live, what stands in others means nothing.
      inputs: what enters the new block, [N, H, W, C], by running statistics, of the batch that was
        given, if one was.
      outputs: block_variables -> what that block makes of `inputs`, by its running statistics;
        None without a batch.
      loss: block_variables -> (mean cross-entropy, the block's new running statistics) of the
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


def block_before(stage: Any, own: Any, slot: jax.Array) -> Any:
    """Reads the block before a slot out of a stage's tree, in the form of the block `own`."""
    first = dict(jax.tree_util.tree_leaves_with_path(stage["first"]))

    def read(path, own, stacked):
        start = first.get(path, own)
        start = start.astype(own.dtype) if start.shape == own.shape else own
        newest = jnp.take(stacked, slot - 1, axis=0, mode="clip").astype(own.dtype)
        return jnp.where(slot > 0, newest, start)

    return jax.tree_util.tree_map_with_path(read, own, stage[STACKED])


def check_block(initializer: str, started: Any, block: Variables) -> Variables:
    """Refuses what an initialiser returned where it is not of the form of `block`."""

    def named(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}

    found, wanted = named(started), named(block)
    said = f"initializer {initializer!r} returned"
    for name in sorted(found.keys() - wanted.keys()):
        raise UserError(f"{said} {name}, which a block has not")
    for name, own in wanted.items():
        if name not in found:
            raise UserError(f"{said} no {name}; return all that it was given, changed or not")
        leaf = found[name] = jnp.asarray(found[name])
        if (leaf.shape, leaf.dtype) != (own.shape, own.dtype):
            form = f"{leaf.dtype}{list(leaf.shape)}; a block has it as {own.dtype}{list(own.shape)}"
            raise UserError(f"{said} {name} as {form}")
    return jax.tree.unflatten(jax.tree.structure(block), [found[name] for name in wanted])


InitializerFn = Callable[[jax.Array, Variables, Context], Variables]


class Initializer(NamedTuple):
    """A start of a block and the data it needs.

    Attributes:
      start: (key, block_variables, context) -> block_variables, pure, run inside `jax.jit`. These
        are {"params": ...} and, with batch normalisation, "batch_stats" of one block, whose
        structure, shapes and dtypes have to stay.
      needs_images: whether it reads `context.inputs`; or of which families it does.
      needs_labels: whether it calls `context.loss`, for which it needs images too.
      pretrain: whether the training loop, which gives `start` no loss then, trains the new block
        by Adam for some epochs, all else frozen (PAPER: "Initialisers of a new block").
      name: what it is registered as.
    """

    start: InitializerFn
    needs_images: bool | Callable[[Family], bool] = False
    needs_labels: bool = False
    pretrain: bool = False
    name: str = ""

    def needs_data(self, family: Family) -> bool:
        """Whether it looks at a batch when it starts a block of this family."""
        needs = self.needs_images
        return self.needs_labels or (needs(family) if callable(needs) else needs)


def _replace_last_bn(block: Variables, context: Context, replace) -> Variables:
    """Replaces scale and shift of the last BN by replace(number, leaf)."""
    name = context.family.last_bn
    if name not in block["params"]:
        raise UserError(
            f"the family's last_bn is {name!r}, but a block has {', '.join(block['params'])}; set"
            " it, or choose the initializer 'default' or one of your own"
        )
    old = block["params"][name]
    bn = {leaf: replace(number, old[leaf]) for number, leaf in enumerate(("scale", "bias"))}
    return {**block, "params": {**block["params"], name: bn}}


def _map_layers(block: Variables, **replace: Callable[[int, jax.Array], jax.Array]) -> Variables:
    """Replaces the leaves of all layers by replace[name](number of the layer, leaf)."""
    params = dict(block["params"])
    for number, layer in enumerate(sorted(params)):
        if isinstance(params[layer], dict):
            leaves = params[layer]
            own = {name: f(number, leaves[name]) for name, f in replace.items() if name in leaves}
            params[layer] = leaves | own
    return {**block, "params": params}


def _draw(key: jax.Array, block: Variables, context: Context, last_bn, kernel) -> Variables:
    """Draws a residual block's last BN, or a plain one's kernels by kernel(key, fan_in, ...)."""
    if context.family.residual:
        keys = jax.random.split(key)
        return _replace_last_bn(block, context, lambda i, a: last_bn(keys[i], a.shape, a.dtype))

    def draw(number, a):
        fan_in = a.size // a.shape[-1]
        return kernel(jax.random.fold_in(key, number), fan_in, a.shape, a.dtype)

    return _map_layers(block, kernel=draw)


def uniform(key: jax.Array, block: Variables, context: Context) -> Variables:
    """Residual: scale and shift of the last BN U[0, 1). Plain: kernels U(+-sqrt(6 / fan_in))."""

    def kernel(key, fan_in, shape, dtype):
        bound = (6.0 / fan_in) ** 0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return _draw(key, block, context, jax.random.uniform, kernel)


def gaussian(key: jax.Array, block: Variables, context: Context) -> Variables:
    """Residual: scale and shift of the last BN N(0, 1). Plain: kernels N(0, 2 / fan_in)."""

    def kernel(key, fan_in, shape, dtype):
        return (2.0 / fan_in) ** 0.5 * jax.random.normal(key, shape, dtype)

    return _draw(key, block, context, jax.random.normal, kernel)


def morphism(key: jax.Array, block: Variables, context: Context) -> Variables:
    """Network morphism: the block is the identity, the network computes what it computed.

    Residual: scale and shift of the last BN are zero. Plain: the identity kernel, and a BN that
    undoes itself: scale = sqrt(var + eps), shift = mean, running statistics the same, with mean
    and variance of the block's input on a batch. Both rest on the block's input being
    non-negative, as it is behind a ReLU.
    """
    if context.family.residual:
        return _replace_last_bn(block, context, lambda _, leaf: jnp.zeros_like(leaf))

    def identity(_, kernel):
        height, width, channels, _ = kernel.shape
        eye = jnp.eye(channels, dtype=kernel.dtype)
        return jnp.zeros_like(kernel).at[height // 2, width // 2].set(eye)

    block = _map_layers(block, kernel=identity, bias=lambda _, leaf: jnp.zeros_like(leaf))
    if not block.get("batch_stats"):
        return block
    assert context.inputs is not None
    inputs = context.inputs.astype(jnp.float32)
    mean, var = jnp.mean(inputs, (0, 1, 2)), jnp.var(inputs, (0, 1, 2))
    names = block["batch_stats"]
    norms = {name: {"scale": jnp.sqrt(var + EPSILON), "bias": mean} for name in names}
    stats = {name: {"mean": mean, "var": var} for name in names}
    return {**block, "params": {**block["params"], **norms}, "batch_stats": stats}


def trained_by_adam(family: Family, path: tuple[Any, ...]) -> bool:
    """Whether Adam pre-training changes a parameter: of residual blocks only the last BN's."""
    names = {getattr(key, "key", None) for key in path}
    return not family.residual or family.last_bn in names


def adam(key: jax.Array, block: Variables, context: Context) -> Variables:
    """The family's random start, then Adam on the new block alone, all else frozen.

    Here on the one batch of the context, for 100 steps; the training loop gives no loss and does
    what the paper does: epochs of the training set, at most 10, until the accuracy is back.
    """
    loss = context.loss
    if loss is None:
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

    stats = block.get("batch_stats", {})
    carry = (block["params"], stats, optimizer.init(block["params"]))
    params, stats, _ = lax.fori_loop(0, 100, step, carry)
    return {**block, "params": params, **({"batch_stats": stats} if stats else {})}


def make_adam() -> optax.GradientTransformation:
    """The paper's optimiser for pre-training a block: rate 1e-3, L2 5e-4 in the gradient."""
    return optax.chain(optax.add_decayed_weights(5e-4), optax.scale_by_adam(), optax.scale(-1e-3))


_MORPHISM = Initializer(morphism, lambda family: family.batch_norm and not family.residual)

INITIALIZERS: Registry[Initializer] = Registry(
    "initializer",
    {
        "morphism": _MORPHISM,
        "zero": _MORPHISM,
        "uniform": Initializer(uniform),
        "gaussian": Initializer(gaussian),
        "adam": Initializer(adam, needs_labels=True, pretrain=True),
        # The family's own random start.
        "default": Initializer(lambda key, block, context: block),
    },
)
get_initializer = INITIALIZERS.find


def register_initializer(
    name: str,
    start: InitializerFn,
    *,
    needs_images: bool | Callable[[Family], bool] = False,
    needs_labels: bool = False,
    pretrain: bool = False,
) -> None:
    """Adds an `Initializer` of one's own to the names; UserError where its name is taken."""
    needs_images = needs_labels or needs_images
    INITIALIZERS.register(name, Initializer(start, needs_images, needs_labels, pretrain, name))
