"""The growth step on real networks: what is kept, what is new, what is computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from autogrow_jax.errors import UserError
from autogrow_jax.growth import (
    INITIALIZERS,
    GraftError,
    grow,
    grow_optimizer_state,
    register_initializer,
)
from autogrow_jax.models import FAMILIES, build_network
from autogrow_jax.trees import cut

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(7)
_generator = np.random.default_rng(0)
IMAGES = jnp.asarray(_generator.standard_normal((6, 8, 8, 3)), jnp.float32)
OTHER_IMAGES = jnp.asarray(_generator.standard_normal((5, 8, 8, 3)) * 1.5 + 0.3, jnp.float32)
LABELS = jnp.arange(6) % 5
LAST_BN = {"narrow_basic3": "bn2", "narrow_switch3": "bn2", "narrow_bottleneck4": "bn3"}
# A switched block is a basic block and a scalar.
NARROW = ["narrow_plain3", "narrow_plain3_nobn", "narrow_switch3", "narrow_bottleneck4"]
OPTIMIZER = optax.sgd(0.05, momentum=0.9)


@pytest.fixture(autouse=True, scope="module")
def narrow_families():
    """Two narrow stages of each kind of block, which compile and run in a moment."""
    narrow = {
        f"narrow_{name}": FAMILIES[name]._replace(widths=(8, 12), stem_width=8)
        for name in ("plain3", "plain3_nobn", "basic3", "switch3", "bottleneck4")
    }
    FAMILIES.update(narrow)
    yield
    for name in narrow:
        del FAMILIES[name]


@functools.cache
def _seed(family):
    """A seed net and variables drawn by NumPy, which needs nothing to be compiled."""
    network = build_network(family, (1,) * len(FAMILIES[family].widths), num_classes=5)
    generator = np.random.default_rng(1)

    def draw(path, like):
        if path[-1].key == "kernel":
            scale = (2 / (like.size // like.shape[-1])) ** 0.5 if like.size else 0.0
            leaf = scale * generator.standard_normal(like.shape)
        else:
            leaf = generator.uniform(0.5, 1.5, like.shape)
        return leaf.astype(like.dtype)

    return network, jax.tree_util.tree_map_with_path(draw, _shapes(network))


def _shapes(network):
    return jax.eval_shape(network.init, KEY, IMAGES[:1])


# NumPy, not JAX, moves leaves about here: JAX would compile each shape of slice.
def _zeros(network):
    return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), _shapes(network))


def _pad(variables, network, capacities):
    def pad(old, zeros):
        zeros[tuple(slice(size) for size in old.shape)] = old
        return zeros

    return jax.tree.map(pad, variables, _zeros(network.clone(depths=capacities)))


def _make_evaluate(network, capacities):
    """Logits of nets of all depths within the capacities."""
    padded = network.clone(depths=capacities)
    return jax.jit(lambda v, live: padded.apply(v, OTHER_IMAGES, live_depths=live))


def _make_step(network):
    """A step of training; the depths of the network are capacities."""

    def loss(params, stats, live_depths):
        logits, updated = network.apply(
            {"params": params, **stats},
            IMAGES,
            train=True,
            live_depths=live_depths,
            mutable=["batch_stats"],
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean(), updated

    @jax.jit
    def step(variables, state, live_depths):
        params = variables["params"]
        stats = {name: tree for name, tree in variables.items() if name != "params"}
        grads, updated = jax.grad(loss, has_aux=True)(params, stats, live_depths)
        updates, state = OPTIMIZER.update(grads, state)
        return {"params": optax.apply_updates(params, updates), **updated}, state

    return step


def _train(step, network, variables, capacities, steps=3):
    """Exact-depth variables and state of the optimiser after some steps."""
    padded = _pad(variables, network, capacities)
    state = jax.jit(OPTIMIZER.init)(padded["params"])
    live = jnp.asarray(network.depths)
    for _ in range(steps):
        padded, state = step(padded, state, live)
    return cut(jax.device_get((padded, state)), network.depths)


def _assert_old_leaves_kept(old, new):
    """Equal in every bit; of stacked blocks the entries before the new one."""
    assert jax.tree.structure(old) == jax.tree.structure(new)

    def compare(path, a, b):
        name = jax.tree_util.keystr(path)
        np.testing.assert_array_equal(a, np.asarray(b)[: len(a)] if a.ndim else b, err_msg=name)

    jax.tree_util.tree_map_with_path(compare, old, new)


def _new_block(variables, stage):
    return {
        name: jax.tree.map(lambda a: np.asarray(a)[-1], tree[f"stage{stage}"].get("rest", {}))
        for name, tree in variables.items()
    }


def _leaves(tree):
    return {
        "/".join(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


# Morphism


def _assert_morphism_keeps_logits(network, variables, stages, capacities, evaluate):
    def logits():
        return evaluate(_pad(variables, network, capacities), jnp.asarray(network.depths))

    expected = logits()
    # How far the images differ from each other; rounding is measured against it.
    spread = float(jnp.ptp(expected, axis=0).max())
    assert spread > 0.01
    for stage in stages:
        old = variables
        network, variables = grow(
            network, old, stage=stage, key=KEY, initializer="morphism", images=IMAGES
        )
        _assert_old_leaves_kept(old, variables)
        np.testing.assert_allclose(
            logits(), expected, atol=1e-4 * min(1.0, spread), err_msg=f"stage {stage}"
        )
    return network, variables


@pytest.mark.parametrize(
    "family", [*NARROW, *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES)]
)
def test_morphism_leaves_the_logits_of_a_trained_net(family):
    """At every stage in turn, and a second time at one that grew."""
    network, variables = _seed(family)
    num_stages = len(network.depths)
    capacities = (3, *[2] * (num_stages - 1))
    variables, _ = _train(_make_step(network), network, variables, network.depths)
    network, _ = _assert_morphism_keeps_logits(
        network, variables, [*range(num_stages), 0], capacities, _make_evaluate(network, capacities)
    )
    assert network.depths == capacities


def test_morphism_holds_again_after_the_grown_net_has_trained():
    network, variables = _seed("narrow_plain3")
    capacities = (3, 1)
    evaluate = _make_evaluate(network, capacities)
    step = _make_step(network.clone(depths=capacities))
    for _ in range(2):
        variables, _ = _train(step, network, variables, capacities)
        network, variables = _assert_morphism_keeps_logits(
            network, variables, [0], capacities, evaluate
        )


def test_morphism_disturbs_no_training_though_running_statistics_lag_behind():
    """In an epoch of few steps they do; blocks made by them left a net at chance for good."""
    network, variables = _seed("narrow_plain3")  # Whose running statistics are those of no image.

    def logits(network, variables):
        apply = jax.jit(lambda v: network.apply(v, IMAGES, train=True, mutable=["batch_stats"])[0])
        return apply(variables)

    expected = logits(network, variables)
    how = {"key": KEY, "initializer": "morphism", "images": IMAGES}
    for stage in (1, 0, 1):
        network, variables = grow(network, variables, stage=stage, **how)
        moved = jnp.abs(logits(network, variables) - expected).max()
        assert moved < 1e-3 * jnp.ptp(expected, axis=0).max(), stage


# Random starts


@pytest.mark.parametrize("initializer", ["default", "uniform", "gaussian"])
@pytest.mark.parametrize("family", ["narrow_plain3", "narrow_switch3", "narrow_bottleneck4"])
def test_random_starts_keep_the_old_and_write_the_new(family, initializer):
    network, variables = _seed(family)
    deeper, grown = grow(network, variables, stage=1, key=KEY, initializer=initializer)
    assert deeper.depths == (1, 2, *network.depths[2:])
    _assert_old_leaves_kept(variables, grown)
    block = _new_block(grown, 1)
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, _zeros(deeper))
    # The part that no initialiser writes starts as `default` has it, by the same key.
    _, default = grow(network, variables, stage=1, key=KEY, initializer="default")
    found, start = _leaves(block), _leaves(_new_block(default, 1))
    changed = {path for path in found if np.any(found[path] != start[path])}
    last = LAST_BN.get(family)
    written = {f"params/{last}/scale", f"params/{last}/bias"} if last else {"params/conv1/kernel"}
    assert changed == (set() if initializer == "default" else written)
    for path, leaf in start.items():
        if path.endswith("kernel"):
            bound = (leaf.size // leaf.shape[-1]) ** -0.5
            assert 0.5 * bound < np.abs(leaf).max() <= bound
        elif path.endswith(("scale", "var", "switch")):
            np.testing.assert_array_equal(leaf, 1.0)


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=[pytest.mark.slow] if "4" in f else []) for f in FAMILIES],
)
def test_every_family_keeps_the_old(family):
    network, variables = _seed(family)
    last = len(network.depths) - 1
    deeper, grown = grow(network, variables, stage=last, key=KEY)
    assert deeper.depths == (*network.depths[:-1], 2)
    _assert_old_leaves_kept(variables, grown)


def test_growth_is_a_function_of_the_key():
    network, variables = _seed("narrow_plain3")
    starts = [
        _leaves(_new_block(grow(network, variables, stage=0, key=jax.random.key(seed))[1], 0))
        for seed in (1, 1, 2)
    ]
    for path, leaf in starts[0].items():
        np.testing.assert_array_equal(leaf, starts[1][path])
    assert np.all(starts[0]["params/conv1/kernel"] != starts[2]["params/conv1/kernel"])


def test_inputs_stay_as_they_are():
    network, variables = _seed("narrow_plain3")
    copy, images = variables, np.array(IMAGES)
    variables = jax.tree.map(jnp.array, copy)  # Buffers that a jitted function could take over.
    grow(network, variables, stage=0, key=KEY, initializer="morphism", images=IMAGES)
    assert network.depths == (1, 1)
    jax.tree.map(np.testing.assert_array_equal, variables, copy)
    np.testing.assert_array_equal(IMAGES, images)


def test_a_stage_may_be_numpys_and_stays_out_of_the_depths():
    network, variables = _seed("narrow_plain3")
    deeper, _ = grow(network, variables, stage=np.int64(1), key=KEY)
    assert [type(depth) for depth in deeper.depths] == [int] * 2


# Adam


@pytest.mark.parametrize("family", ["narrow_plain3", "narrow_basic3"])
def test_adam_lowers_the_loss_and_touches_only_its_block(family):
    network, variables = _seed(family)
    starts = {}
    # Optax raises a number to its integer count of steps.
    with jax.numpy_dtype_promotion("standard"):
        for name in ("default", "adam"):
            deeper, starts[name] = grow(
                network,
                variables,
                stage=1,
                key=KEY,
                initializer=name,
                images=IMAGES,
                labels=LABELS,
            )
    _assert_old_leaves_kept(variables, starts["adam"])

    @jax.jit
    def loss(variables):
        logits, _ = deeper.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    assert loss(starts["adam"]) < loss(starts["default"]) - 0.01
    default, adam = (_leaves(_new_block(starts[name], 1)) for name in ("default", "adam"))
    changed = {path for path in adam if np.any(adam[path] != default[path])}
    params = {path for path in changed if path.startswith("params")}
    every = {path for path in adam if path.startswith("params")}
    assert params == ({p for p in every if "bn2" in p} if family in LAST_BN else every)
    # Its running statistics, which no gradient touches, are those of training.
    assert changed - params == {path for path in adam if path.startswith("batch_stats")}


# The optimiser


def test_momentum_of_the_old_is_kept_and_of_the_new_is_zero():
    network, variables = _seed("narrow_plain3")
    variables, state = _train(_make_step(network), network, variables, network.depths)
    _, grown = grow(network, variables, stage=1, key=KEY)
    new_state = grow_optimizer_state(OPTIMIZER, state, grown["params"])
    _assert_old_leaves_kept(state, new_state)
    momentum = new_state[0].trace
    assert jax.tree.map(jnp.shape, momentum) == jax.tree.map(jnp.shape, grown["params"])
    assert jnp.any(momentum["stage1"]["first"]["conv1"]["kernel"] != 0)
    for leaf in jax.tree.leaves(momentum["stage1"]["rest"]):
        np.testing.assert_array_equal(leaf[-1], 0.0)


# Mistakes


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("narrow_plain3", {"stage": 3}, r"0\.\.1"),
        ("narrow_plain3", {"stage": -1}, r"0\.\.1"),
        ("narrow_plain3", {"stage": 1.0}, "whole numbers"),
        ("narrow_plain3", {"initializer": "gausian"}, "did you mean 'gaussian'"),
        ("narrow_plain3", {"initializer": "morphism"}, "pass images="),
        ("narrow_basic3", {"initializer": "adam"}, "pass images="),
        ("narrow_basic3", {"initializer": "adam", "images": IMAGES}, "labels="),
    ],
)
def test_mistakes_are_told(family, arguments, message):
    network, variables = _seed(family)
    with pytest.raises(UserError, match=message):
        grow(network, variables, **{"stage": 0, "key": KEY, **arguments})


@pytest.mark.parametrize("depths", [(2, 1), (3, 1)])
def test_variables_of_other_depths_are_refused(depths):
    """Deeper ones do not fit; shallower ones would, with blocks between that nobody trained."""
    network, variables = _seed("narrow_plain3")
    other = build_network("narrow_plain3", depths, num_classes=5)
    with pytest.raises(UserError, match=f"{depths[0]} blocks, the variables hold 1"):
        grow(other, variables, stage=1, key=KEY)
    with pytest.raises(UserError, match=f"1 blocks, the variables hold {depths[0]}"):
        grow(network, _zeros(other), stage=1, key=KEY)


def test_variables_of_another_network_are_refused():
    network, variables = _seed("narrow_plain3")
    with pytest.raises(GraftError, match="head"):
        grow(network.clone(num_classes=6), variables, stage=0, key=KEY)
    with pytest.raises(GraftError, match="only in the new tree"):
        grow(network, {"params": variables["params"]}, stage=0, key=KEY)


# An initialiser of one's own


@pytest.fixture
def registered():
    """Registers under a name, anew if need be, and takes the name back afterwards."""
    name = "of_my_own"

    def register(start, **needs):
        INITIALIZERS.pop(name, None)
        register_initializer(name, start, **needs)
        return name

    yield register
    INITIALIZERS.pop(name, None)


def _constant(value):
    return lambda key, block, context: jax.tree.map(lambda a: jnp.full_like(a, value), block)


def test_an_initializer_defined_anew_is_the_one_used(registered):
    """Also under its old name, and where the old one was compiled already."""
    network, variables = _seed("narrow_plain3")
    for value in (2.0, 3.0):
        name = registered(_constant(value))
        _, grown = grow(network, variables, stage=1, key=KEY, initializer=name)
        _assert_old_leaves_kept(variables, grown)
        for leaf in jax.tree.leaves(_new_block(grown, 1)):
            np.testing.assert_array_equal(leaf, value)


def test_an_initializer_sees_what_enters_its_block_and_the_loss(registered):
    network, variables = _seed("narrow_plain3")

    def start(key, block, context):
        loss, stats = context.loss(block)
        assert jax.tree.structure(stats) == jax.tree.structure(block["batch_stats"])
        bias = jnp.full_like(block["params"]["bn1"]["bias"], loss)
        scale = jnp.mean(context.inputs, (0, 1, 2))
        return {**block, "params": {**block["params"], "bn1": {"bias": bias, "scale": scale}}}

    name = registered(start, needs_labels=True)
    with pytest.raises(UserError, match="labels="):
        grow(network, variables, stage=1, key=KEY, initializer=name, images=IMAGES)
    deeper, grown = grow(
        network, variables, stage=1, key=KEY, initializer=name, images=IMAGES, labels=LABELS
    )
    _, captured = jax.jit(lambda v, x: network.apply(v, x, mutable=["intermediates"]))(
        variables, IMAGES
    )
    bn = _new_block(grown, 1)["params"]["bn1"]
    (output,) = captured["intermediates"]["stage1_output"]
    np.testing.assert_allclose(bn["scale"], np.mean(output, (0, 1, 2)), rtol=1e-4, atol=1e-6)

    # The loss is that of the deeper network with the block's default start, in training mode.
    _, default = grow(network, variables, stage=1, key=KEY, initializer="default")
    logits, _ = jax.jit(lambda v, x: deeper.apply(v, x, train=True, mutable=["batch_stats"]))(
        default, IMAGES
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
    np.testing.assert_allclose(bn["bias"], losses.mean(), rtol=1e-4)


def test_copying_the_block_before_takes_three_lines(registered):
    """Behind the stage's first block, what that has in another shape is as the family starts it."""

    def copy(key, block, context):
        return context.previous

    name, (network, variables) = registered(copy), _seed("narrow_plain3")
    deeper, grown = grow(network, variables, stage=1, key=KEY, initializer=name)
    first, own = variables["params"]["stage1"]["first"], _new_block(grown, 1)["params"]
    np.testing.assert_array_equal(own["bn1"]["scale"], first["bn1"]["scale"])
    assert own["conv1"]["kernel"].shape != first["conv1"]["kernel"].shape
    assert jnp.std(own["conv1"]["kernel"]) > 0
    _, grown = grow(deeper, grown, stage=1, key=KEY, initializer=name)
    jax.tree.map(
        lambda leaf: np.testing.assert_array_equal(leaf[0], leaf[1]),
        [grown[part]["stage1"]["rest"] for part in grown],
    )


def test_an_initializer_sees_where_it_grows(registered):
    seen = []

    def start(key, block, context):
        seen.append(context)
        made, average = context.outputs(block), context.ema["bn1"]["scale"]
        scale = jnp.std(made, (0, 1, 2)) * 0 + context.slot + context.depths[1] + average
        stacked = context.stage_blocks["params"]["bn1"]["scale"]
        bn = {"scale": scale, "bias": stacked[0]}
        return {**block, "params": {**block["params"], "bn1": bn}}

    name, (network, variables) = registered(start, needs_images=True), _seed("narrow_plain3")
    network, variables = grow(network, variables, stage=1, key=KEY)
    ema = jax.tree.map(lambda leaf: jnp.full_like(leaf, 10.0), variables["params"])
    with jax.numpy_dtype_promotion("standard"):
        _, grown = grow(
            network, variables, stage=1, key=KEY, initializer=name, images=IMAGES, ema=ema
        )
    bn = _new_block(grown, 1)["params"]["bn1"]
    np.testing.assert_array_equal(bn["scale"], 1 + 2 + 10.0)
    np.testing.assert_array_equal(
        bn["bias"], variables["params"]["stage1"]["rest"]["bn1"]["scale"][0]
    )
    assert (seen[0].stage, seen[0].family) == (1, network.family)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda conv: conv[:1, :1], r"\['kernel'\] as float32\[1, 1, 8, 8\]; .*\[3, 3, 8, 8\]"),
        (lambda conv: conv.astype(jnp.bfloat16), r"\['kernel'\] as bfloat16"),
        (lambda conv: {"a": conv}, r"\['kernel'\] as nothing; a block has it as float32"),
        (lambda conv: None, r"\['params'\]\['conv1'\]\['kernel'\] as nothing"),
        (lambda conv: conv / 0, r"made .*\['conv1'\]\['kernel'\] of a new block NaN or infinite"),
    ],
)
def test_what_an_initializer_may_not_return(registered, change, message):
    def start(key, block, context):
        conv = {"kernel": change(block["params"]["conv1"]["kernel"])}
        return {**block, "params": {**block["params"], "conv1": conv}}

    name, (network, variables) = registered(start), _seed("narrow_plain3")
    with pytest.raises(UserError, match="initializer 'of_my_own' .*" + message):
        grow(network, variables, stage=0, key=KEY, initializer=name)


@pytest.mark.parametrize("initializer", ["gaussian", "morphism", "copy_of_before"])
def test_further_growths_of_a_stage_compile_nothing(initializer):
    """The first growth compiles a program; those within its room find it, whatever their depth."""
    register_initializer("copy_of_before", lambda key, block, context: context.previous)
    compiled, listens = [], [True]  # Not every JAX lets a listener go.

    def listen(name, seconds, **_):
        if listens and name == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    try:
        net = build_network("basic3", (1, 1, 1), 10, 1)
        variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
        net, variables = grow(
            net, variables, stage=1, key=jax.random.key(1), initializer=initializer
        )
        keys = list(jax.random.split(jax.random.key(2), 4))
        jax.monitoring.register_event_duration_secs_listener(listen)
        for key in keys:
            net, variables = grow(net, variables, stage=1, key=key, initializer=initializer)
        assert net.depths == (1, 6, 1)
        assert compiled == []
        grow(net, variables, stage=0, key=keys[0], initializer=initializer)
        assert compiled  # It would have been heard.
    finally:
        listens.clear()
        del INITIALIZERS["copy_of_before"]
