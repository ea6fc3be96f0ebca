"""Grafting carries every old leaf over bit for bit, and refuses trees that do not belong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from autogrow_jax.growth import GraftError, graft, grow_optimizer_state
from autogrow_jax.trees import cut, write_block

pytestmark = pytest.mark.usefixtures("quick_compilation")

WIDTH = 4


def _params(depths, seed=0, width=WIDTH):
    """A tree of the names that a network's parameters have."""
    generator = np.random.default_rng(seed)

    def layer(*shape):
        return {"kernel": jnp.asarray(generator.standard_normal(shape), jnp.float32)}

    stages = {
        f"stage{i}": {"first": layer(width, width), "rest": layer(depth - 1, width, width)}
        for i, depth in enumerate(depths)
    }
    return {"stem": layer(3, width), **stages, "head": layer(width, 10)}


def _assert_old_leaves_kept(old, new):
    """Equal in every bit, the blocks of `new` beyond those of `old` left out."""

    def compare(path, a, b):
        assert a.dtype == b.dtype
        name = jax.tree_util.keystr(path)
        np.testing.assert_array_equal(a, b if a.shape == b.shape else b[: len(a)], err_msg=name)

    assert jax.tree.structure(old) == jax.tree.structure(new)
    jax.tree_util.tree_map_with_path(compare, old, new)


@pytest.mark.parametrize("stage", [0, 1, 10])
def test_old_leaves_keep_every_bit_and_new_blocks_stay(stage):
    depths = [1, 3, *[1] * 9]  # Eleven stages: stage1 is no prefix of stage10.
    deeper = [depth + 2 * (i == stage) for i, depth in enumerate(depths)]
    old, new = _params(depths), _params(deeper, seed=1)
    grafted = graft(old, new)
    _assert_old_leaves_kept(old, grafted)
    rest = (f"stage{stage}", "rest", "kernel")
    for key in rest:
        grafted, new = grafted[key], new[key]
    np.testing.assert_array_equal(grafted[depths[stage] - 1 :], new[depths[stage] - 1 :])


def test_cut_undoes_padding():
    depths = (1, 3, 2)
    old = _params(depths)
    zeros = jax.tree.map(jnp.zeros_like, _params((4, 4, 4)))
    padded = graft(old, zeros)
    assert padded["stage1"]["rest"]["kernel"].shape == (3, WIDTH, WIDTH)
    np.testing.assert_array_equal(padded["stage1"]["rest"]["kernel"][2], 0.0)
    jax.tree.map(np.testing.assert_array_equal, cut(padded, depths), old)


def test_a_mismatch_lists_everything_that_is_wrong():
    old, new = _params((2, 1)), _params((3, 1))
    old["stem"]["bias"] = jnp.zeros(WIDTH)
    new["head"]["bias"] = jnp.zeros(10)
    new["stage1"]["first"]["kernel"] = jnp.zeros((WIDTH, WIDTH + 1))
    new["stem"]["kernel"] = new["stem"]["kernel"].astype(jnp.bfloat16)
    with pytest.raises(GraftError) as caught:
        graft(old, new)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 4
    expected = {
        "  - ['stem']['bias']: only in the old tree",
        "  + ['head']['bias']: only in the new tree",
        "  ! ['stage1']['first']['kernel']: float32[4, 4] in the old tree, float32[4, 5]",
        "  ! ['stem']['kernel']: float32[3, 4] in the old tree, bfloat16[3, 4]",
    }
    assert set(lines) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(_params((3, 1)), _params((2, 1)), id="shallower"),
        pytest.param(_params((2, 1), width=4), _params((2, 1), width=5), id="wider"),
        pytest.param({"head": jnp.zeros((2, 3))}, {"head": jnp.zeros((4, 3))}, id="not a stack"),
        pytest.param(
            {"rest": {"kernel": jnp.zeros((2, 3))}},
            {"rest": {"kernel": jnp.zeros((4, 3))}},
            id="rest of no stage",
        ),
    ],
)
def test_only_a_stack_may_grow_and_only_in_depth(old, new):
    with pytest.raises(GraftError, match="in the old tree"):
        graft(old, new)


def _label(params):
    """Labels that are also names in the tree, which must confuse nothing."""
    return {
        name: jax.tree.map(lambda _, n=name: "rest" if "stage" in n else "stage0", tree)
        for name, tree in params.items()
    }


def _only_kernels_of_stages(params):
    return {name: jax.tree.map(lambda _, n=name: "stage" in n, t) for name, t in params.items()}


OPTIMIZERS = {
    "sgd": optax.sgd(0.1, momentum=0.9),
    "schedule": optax.sgd(optax.linear_schedule(0.1, 0.0, 10), momentum=0.9),
    "adam": optax.adam(1e-3),
    "clip_adam": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
    "adam_bfloat16": optax.adam(1e-3, mu_dtype=jnp.bfloat16),
    "multi_transform": optax.multi_transform(
        {"rest": optax.sgd(0.1, momentum=0.9), "stage0": optax.adam(1e-3)}, _label
    ),
    "masked": optax.masked(optax.adam(1e-3), _only_kernels_of_stages),
    "inject": optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
    "adafactor": optax.adafactor(1e-3, min_dim_size_to_factor=2, momentum=0.9),
    "adafactor_small": optax.adafactor(1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_state_keeps_the_old_and_starts_the_new(name):
    optimizer = OPTIMIZERS[name]
    depths, deeper = (3, 1), (4, 1)
    params, deeper_params = _params(depths), _params(deeper, seed=1)
    # Some of optax counts its steps in an integer that it raises to a power.
    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.init(params)
        update = jax.jit(optimizer.update)
        for seed in (2, 3):
            _, state = update(_params(depths, seed=seed), state, params)
        grown = grow_optimizer_state(optimizer, state, deeper_params)
        fresh = optimizer.init(deeper_params)
        _assert_old_leaves_kept(state, grown)
        moved = 0
        for old, new, start in zip(*map(jax.tree.leaves, (state, grown, fresh)), strict=True):
            if new.shape != old.shape:
                moved += 1
                np.testing.assert_array_equal(new[len(old) :], start[len(old) :])
        assert moved, "no leaf of the state belongs to the blocks"
        # The grown state is one that the optimiser takes.
        jax.eval_shape(optimizer.update, _params(deeper, seed=4), grown, deeper_params)


def test_the_state_of_another_optimizer_is_refused():
    params = _params((1, 1))
    state = optax.adam(1e-3).init(params)
    with pytest.raises(GraftError, match="only in the new tree"):
        grow_optimizer_state(optax.sgd(0.1, momentum=0.9), state, _params((2, 1)))


def test_write_block_changes_one_slot_of_one_stage():
    tree, fresh = _params((3, 3, 1)), _params((3, 3, 1), seed=1)
    written = jax.jit(write_block, static_argnums=2)(tree, fresh, 1, 1)
    expected = jax.tree.map(np.array, tree)
    expected["stage1"]["rest"]["kernel"][1] = fresh["stage1"]["rest"]["kernel"][1]
    jax.tree.map(np.testing.assert_array_equal, written, expected)

    single = {**fresh, "stage1": {**fresh["stage1"]}}
    single["stage1"]["rest"] = {"kernel": fresh["stage1"]["rest"]["kernel"][1]}
    jax.tree.map(np.testing.assert_array_equal, write_block(tree, single, 1, 1), expected)


@pytest.mark.parametrize(("stage", "slot"), [(1, -1), (1, 2), (2, 0), (2, -1)])
def test_write_block_outside_the_axis_changes_nothing(stage, slot):
    tree, fresh = _params((3, 3, 1)), _params((3, 3, 1), seed=1)  # Stage 2 has no slot at all.
    jax.tree.map(np.testing.assert_array_equal, write_block(tree, fresh, stage, slot), tree)


def test_write_block_and_cut_tell_labels_from_stages():
    """The state of a chain labelled "stage0" and "rest" is no stage with stacked blocks."""
    optimizer = OPTIMIZERS["multi_transform"]
    params = _params((3, 1))
    state = jax.tree.map(jnp.ones_like, optimizer.init(params))
    zeros = jax.tree.map(jnp.zeros_like, state)
    written = write_block(state, zeros, 0, 0)
    changed = {
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(written)
        if jnp.any(leaf == 0)
    }
    assert len(changed) == 1 and "['stage0']['rest']['kernel']" in changed.pop()
    shallow = optimizer.init(_params((2, 1)))
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (cut(state, (2, 1)), shallow)]
    assert shapes[0] == shapes[1]
