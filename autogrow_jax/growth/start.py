"""Starts a new block: what an initialiser is shown, and what it is checked for."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import unfreeze

from autogrow_jax.errors import UserError
from autogrow_jax.growth.initializers import Context, Initializer, Variables, get_initializer
from autogrow_jax.models import Network, rest_block
from autogrow_jax.models.layers import SHAPES
from autogrow_jax.trees import STACKED

# Of the largest value; rounding stays far below it, a GELU is far above.
TOLERANCE = 1e-3


def start_block(
    network: Network,
    initializer: Initializer,
    stage: int,
    depths: jax.Array,
    key: jax.Array,
    stages: Variables | None = None,
    ema: Any = None,
    inputs: jax.Array | None = None,
    loss: Any = None,
) -> Variables:
    """Makes the variables of a block behind the live ones of a stage; the rest as in `Context`.

    `stages` and `ema` are the stage's, with room for it: {"params": {"first", "rest"}, ...} and
    {"first", "rest"}; by default of blocks like the new one, which an `ema` of True is too. Raises
    UserError where the initialiser does not fit the family, or returns something else than a block.
    """
    random_key, start_key = jax.random.split(key)
    module, slot = rest_block(network, stage), depths[stage] - 1
    # Parameters depend on channels only; the pixels of this stand-in are never computed.
    shape = 1, 8, 8, network.family.widths[stage]
    like = jax.ShapeDtypeStruct(shape, network.options.dtype)
    block = unfreeze(module.lazy_init(random_key, like, False))
    if stages is None:
        stack = jax.tree.map(lambda leaf: leaf[None], block)
        stages = {part: {"first": block[part], STACKED: stack[part]} for part in block}
        ema = stages["params"] if ema else None
    before = {part: _block_before(stages[part], own, slot) for part, own in block.items()}
    stacked = {part: stages[part][STACKED] for part in block}
    average = _block_before(ema, block["params"], slot) if ema else None
    outputs: Any = lambda given: module.apply(given, inputs, False)  # noqa: E731
    made = outputs if inputs is not None else None
    where = network.family, stage, slot, depths
    context = Context(*where, before, stacked, inputs, made, loss, average)
    started = initializer.start(start_key, block, context)
    found, wanted = _forms(started), _forms(block)
    for name in sorted(found | wanted):
        if found.get(name) != wanted.get(name):
            raise UserError(
                f"initializer {initializer.name!r} returned {name} as {found.get(name, 'nothing')};"
                f" a block has it as {wanted.get(name, 'nothing')}"
            )
    return jax.tree.unflatten(jax.tree.structure(block), map(jnp.asarray, jax.tree.leaves(started)))


def _block_before(stage: Any, own: Any, slot: jax.Array) -> Any:
    """Reads the block before a slot out of a stage's tree, in the form of the block `own`."""
    first = dict(jax.tree_util.tree_leaves_with_path(stage["first"]))

    def read(path, own, stacked):
        start = first[path] if path in first and first[path].shape == own.shape else own
        newest = jnp.take(stacked, slot - 1, axis=0, mode="clip")
        return jnp.where(slot > 0, newest, start.astype(newest.dtype))

    return jax.tree_util.tree_map_with_path(read, own, stage[STACKED])


def _forms(block: Any) -> dict[str, str]:
    leaves = [(path, jnp.asarray(a)) for path, a in jax.tree_util.tree_leaves_with_path(block)]
    return {jax.tree_util.keystr(path): f"{a.dtype}{list(a.shape)}" for path, a in leaves}


def check_start(network: Network, initializer: str, ema: bool) -> None:
    """Raises UserError where a start does not fit the family; computes shapes, asks for no device.

    Not where it asks for a loss, which only arrays have; `ema` says whether there is an average.
    """
    chosen, family = get_initializer(initializer), network.family
    network = network.clone(options=network.options._replace(convolution=SHAPES))
    inputs = jax.ShapeDtypeStruct((2, 8, 8, family.widths[0]), network.options.dtype)

    def start(key, inputs):
        depths = jnp.ones(len(family.widths), jnp.int32)
        return start_block(network, chosen, 0, depths, key, ema=ema, inputs=inputs)

    if chosen.pretrain or not chosen.needs_labels:
        key = jax.eval_shape(lambda: jax.random.key(0))
        jax.eval_shape(start, key, inputs if chosen.needs_data(family) else None)


def check_identity(network: Network, initializer: Initializer) -> None:
    """Tries a start that has to be the identity, once for a family; UserError where it is not."""
    if not initializer.identity:
        return
    options = network.options._replace(dtype=jnp.float32, convolution="xla")
    seed = network.clone(depths=(1,) * len(network.depths), options=options)
    # Growth may be traced, this is not. Other kinds of keys take seconds to compile.
    with jax.ensure_compile_time_eval(), jax.default_matmul_precision("highest"):
        moved = float(_measure_move(seed, initializer, jax.random.key(0, impl="rbg")))
    if not moved <= TOLERANCE:  # NaN too.
        raise UserError(
            f"initializer {initializer.name!r} makes a new block the identity, but one of family"
            f" {network.family.name!r} then changes its input by {moved:.2g} of the largest value:"
            " name in Family(identity=...) what has to be zero, let a plain block end in a ReLU, or"
            " choose another initializer, such as 'default'"
        )


@partial(jax.jit, static_argnums=(0, 1))
def _measure_move(network: Network, initializer: Initializer, key: jax.Array) -> jax.Array:
    family, stage = network.family, min(1, len(network.depths) - 1)
    first = family.block(
        features=family.widths[stage], stride=1 + stage, options=network.options, parent=None
    )
    x = jax.random.normal(key, (2, 8, 8, family.widths[0] if stage else family.stem_width))
    inputs, _ = first.init_with_output(key, jax.nn.relu(x), False)
    seen = {"inputs": inputs} if initializer.needs_data(family) else {}
    block = start_block(network, initializer, stage, jnp.asarray(network.depths), key, **seen)
    moved = rest_block(network, stage).apply(block, inputs, False) - inputs
    return jnp.max(jnp.abs(moved)) / jnp.maximum(jnp.max(jnp.abs(inputs)), 1e-30)
