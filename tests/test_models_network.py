"""Networks: how many parameters, which shapes, how they start, and what they refuse."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from autogrow_jax.config import resolve
from autogrow_jax.errors import UserError
from autogrow_jax.growth import INITIALIZERS, grow, register_initializer
from autogrow_jax.models import (
    FAMILIES,
    BlockOptions,
    Family,
    blocks,
    build_network,
    layers,
    num_params,
    register_family,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((4, 8, 8, 3)), jnp.float32)


def _shapes(network, images=IMAGES):
    return jax.eval_shape(network.init, KEY, images)


@functools.cache
def _drawn(family, depths):
    """A network and variables drawn by NumPy, which needs nothing to be compiled."""
    network = build_network(family, depths)
    generator = np.random.default_rng(1)

    def draw(path, like):
        if path[-1].key == "kernel":
            scale = (2 / max(like.size // like.shape[-1], 1)) ** 0.5
            leaf = scale * generator.standard_normal(like.shape)
        else:
            leaf = generator.uniform(0.5, 1.5, like.shape)
        return leaf.astype(like.dtype)

    return network, jax.tree_util.tree_map_with_path(draw, _shapes(network))


@functools.cache
def _built(family, depths, **options):
    network = build_network(family, depths, **options)
    return network, jax.jit(network.init)(KEY, IMAGES)


def _ones(family):
    return (1,) * len(FAMILIES[family].widths)


# Parameters


def _count(family, depths, classes, channels):
    """The number of parameters from the paper's table of networks alone."""
    widths = [16, 32, 64] if "3" in family else [64, 128, 256, 512]
    factor = 4 if family == "bottleneck4" else 1

    def layer(size, inputs, outputs):
        per_channel = 1 if family.endswith("nobn") else 2  # A bias, or BN's scale and shift.
        return size * size * inputs * outputs + per_channel * outputs

    def block(inputs, width, strided):
        if family.startswith("plain"):
            return layer(3, inputs, width)
        if family == "bottleneck4":
            body = layer(1, inputs, width) + layer(3, width, width) + layer(1, width, 4 * width)
        else:
            body = layer(3, inputs, width) + layer(3, width, width) + (family == "switch3")
        shortcut = strided or inputs != factor * width
        return body + shortcut * layer(1, inputs, factor * width)

    total, inputs = layer(3, channels, widths[0]), widths[0]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        total += block(inputs, width, stage > 0)
        inputs = factor * width
        total += (depth - 1) * block(inputs, width, False)
    return total + (inputs + 1) * classes


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_as_many_as_the_table_says(family, classes=100, channels=1):
    depths = (2, 1, 5, 3)[: len(FAMILIES[family].widths)]
    network = build_network(family, depths, classes, channels)
    variables = _shapes(network, jnp.zeros((1, 8, 8, channels)))
    assert num_params(variables) == _count(family, depths, classes, channels)


@pytest.mark.parametrize(
    ("family", "depths", "count"),
    [
        ("basic3", (1, 1, 1), 78_042),
        ("basic3", (2, 1, 1), 82_714),
        ("plain3", (1, 1, 1), 26_682),
        ("basic4", (1, 1, 1, 1), 4_903_242),
    ],
)
def test_the_count_is_the_one_the_paper_gives(family, depths, count):
    """These are written down in the paper's account; the closed form must agree with them."""
    assert num_params(_shapes(build_network(family, depths))) == count
    assert _count(family, depths, 10, 3) == count


def test_a_block_starts_the_same_whatever_the_depth():
    _, shallow = _built("plain3", (1, 2, 1), bn_scale_init="uniform")
    _, deep = _built("plain3", (1, 4, 1), bn_scale_init="uniform")
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b[: len(a)] if a.shape != b.shape else b),
        shallow,
        deep,
    )
    kernels = np.asarray(deep["params"]["stage1"]["rest"]["conv1"]["kernel"])
    assert all(np.any(kernels[0] != other) for other in kernels[1:]), "blocks start alike"


def test_starts_are_pytorchs():
    """U(+-1/sqrt(fan_in)) for kernels and biases; scales one, or U[0, 1) as in the paper's day."""
    _, variables = _built("plain3_nobn", (1, 2, 1))
    params = variables["params"]
    layers = [params["stem_conv"], params["stage0"]["first"]["conv1"], params["head"]]
    layers += [jax.tree.map(lambda a: a[0], params["stage1"]["rest"]["conv1"])]
    for layer in layers:
        kernel = layer["kernel"]
        bound = (kernel.size // kernel.shape[-1]) ** -0.5
        for leaf in layer.values():
            assert 0.5 * bound < jnp.abs(leaf).max() <= bound
    _, ones = _built("plain3", (1, 2, 1))
    _, uniform = _built("plain3", (1, 2, 1), bn_scale_init="uniform")
    scale = [v["params"]["stage1"]["rest"]["bn1"]["scale"] for v in (ones, uniform)]
    np.testing.assert_array_equal(scale[0], 1.0)
    assert 0.0 <= scale[1].min() < 0.2 and 0.8 < scale[1].max() < 1.0


@pytest.mark.parametrize(("kernel_init", "variance"), [("he", 2.0), ("lecun", 1.0)])
def test_other_starts(kernel_init, variance):
    _, variables = _built("plain3_nobn", (1, 1, 1), kernel_init=kernel_init)
    conv = variables["params"]["stage2"]["first"]["conv1"]
    np.testing.assert_allclose(jnp.var(conv["kernel"]), variance / (9 * 32), rtol=0.05)
    np.testing.assert_array_equal(conv["bias"], 0.0)


# Shapes and types


@pytest.mark.parametrize("family", FAMILIES)
def test_each_stage_halves_the_image(family):
    network = build_network(family, _ones(family), num_classes=7)
    height, width = 9, 8
    images = jnp.zeros((5, height, width, 3))
    logits, captured = jax.eval_shape(
        lambda v, x: network.apply(v, x, mutable=["intermediates"]),
        _shapes(network, images),
        images,
    )
    assert (logits.shape, logits.dtype) == ((5, 7), jnp.float32)
    for stage, channels in enumerate(FAMILIES[family].widths):
        if stage:
            height, width = -(-height // 2), -(-width // 2)
        (output,) = captured["intermediates"][f"stage{stage}_output"]
        assert output.shape == (5, height, width, channels)


def test_the_imagenet_stem_divides_by_four():
    network = build_network("basic4", (1, 1, 1, 1), stem="imagenet")
    images = jnp.zeros((2, 64, 64, 3))
    variables = _shapes(network, images)
    assert variables["params"]["stem_conv"]["kernel"].shape == (7, 7, 3, 64)
    logits, captured = jax.eval_shape(
        lambda v, x: network.apply(v, x, mutable=["intermediates"]), variables, images
    )
    sides = [captured["intermediates"][f"stage{i}_output"][0].shape[1] for i in range(4)]
    assert (logits.shape, sides) == ((2, 10), [16, 8, 4, 2])


@pytest.mark.parametrize("family", ["switch3", "bottleneck4", "plain3_nobn"])
def test_bfloat16_computes_while_parameters_stay_float32(family):
    depths = (2, *_ones(family)[1:])
    network = build_network(family, depths, dtype="bfloat16")

    def run(variables, images):
        return network.apply(
            variables, images, train=True, mutable=["batch_stats", "intermediates"]
        )

    variables = _shapes(network)
    logits, updated = jax.eval_shape(run, variables, IMAGES)
    stats = updated.get("batch_stats", {})
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, stats, logits))} == {
        jnp.dtype("float32")
    }
    outputs = jax.tree.leaves(updated["intermediates"])
    assert {leaf.dtype for leaf in outputs} == {jnp.dtype("bfloat16")}


def test_bfloat16_logits_are_near_those_of_float32():
    network, variables = _drawn("basic3", (2, 1, 1))
    exact = jax.jit(network.apply)(variables, IMAGES)
    rounded = jax.jit(build_network("basic3", (2, 1, 1), dtype=jnp.bfloat16).apply)(
        variables, IMAGES
    )
    np.testing.assert_allclose(rounded, exact, atol=0.05 * float(jnp.ptp(exact)))
    assert jnp.any(rounded != exact)


# Training mode, transformations


def _loss(network, live_depths=None):
    def loss(params, stats, images):
        logits, updated = network.apply(
            {"params": params, **stats},
            images,
            train=True,
            live_depths=live_depths,
            mutable=["batch_stats"],
        )
        return jnp.sum(jnp.sin(logits)), updated

    return jax.value_and_grad(loss, has_aux=True)


def _split(variables):
    return variables["params"], {"batch_stats": variables["batch_stats"]}


def test_training_moves_running_statistics_a_tenth_of_the_way():
    network, variables = _drawn("plain3", (1, 1, 1))
    old = variables["batch_stats"]["stem_bn"]
    x = lax.conv_general_dilated(
        IMAGES,
        variables["params"]["stem_conv"]["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    mean, var = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2), ddof=1)
    (_, updated), _ = jax.jit(_loss(network))(*_split(variables), IMAGES)
    new = updated["batch_stats"]["stem_bn"]
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, atol=1e-5)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * var, rtol=1e-4)


def test_evaluation_leaves_running_statistics():
    network, variables = _drawn("basic3", (2, 1, 1))
    _, updated = jax.jit(lambda v, x: network.apply(v, x, mutable=["batch_stats"]))(
        variables, IMAGES
    )
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


def _pad(tree, depths, capacities):
    def pad(path, leaf):
        keys = [key.key for key in path]
        if "rest" not in keys:
            return leaf
        stage = int(keys[keys.index("rest") - 1].removeprefix("stage"))
        free = capacities[stage] - depths[stage]
        return np.concatenate([leaf, np.full((free, *leaf.shape[1:]), 0.5, leaf.dtype)])

    return jax.tree_util.tree_map_with_path(pad, tree)


def test_one_program_of_a_capacity_serves_all_depths():
    capacities, traces = (3, 3, 1), []
    capacity = build_network("plain3", capacities)

    @jax.jit
    def run(params, stats, images, live_depths):
        traces.append(live_depths)
        return _loss(capacity, live_depths)(params, stats, images)

    for depths in [(1, 1, 1), (2, 3, 1)]:
        network, variables = _drawn("plain3", depths)
        expected = jax.jit(_loss(network))(*_split(variables), IMAGES)
        padded = _pad(variables, depths, capacities)
        (value, updated), grads = run(*_split(padded), IMAGES, jnp.asarray(depths))
        # Dead blocks: no gradient, statistics as they were. All others: as without them.
        zero = jax.tree.map(np.zeros_like, grads)
        expected_grads = _pad(expected[1], depths, capacities)
        expected_grads = jax.tree_util.tree_map_with_path(
            lambda path, a, z, d=depths: _keep_live(path, a, z, d), expected_grads, zero
        )
        _assert_close((value, grads), (expected[0][0], expected_grads))
        _assert_close(updated, _pad(expected[0][1], depths, capacities))
    assert len(traces) == 1


def test_more_live_blocks_than_there_are_are_all_of_them():
    """The last one ran again, and its gradient was that of its last turn."""
    network, variables = _drawn("plain3", (2, 3, 1))
    run = jax.jit(lambda live: _loss(network, live)(*_split(variables), IMAGES))
    _assert_close(run(jnp.asarray([9, 4, 2])), run(jnp.asarray([2, 3, 1])))


def _keep_live(path, leaf, dead, depths):
    keys = [key.key for key in path]
    if "rest" not in keys:
        return leaf
    live = depths[int(keys[0].removeprefix("stage"))] - 1
    return np.concatenate([leaf[:live], dead[live:]])


def _assert_close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4), found, expected
    )


def test_remat_changes_no_gradient():
    network, variables = _drawn("plain3", (2, 3, 1))
    remat = build_network("plain3", (2, 3, 1), remat=True)
    expected = jax.jit(_loss(network))(*_split(variables), IMAGES)
    found = jax.jit(_loss(remat))(*_split(variables), IMAGES)
    _assert_close(found, expected)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(found[1]) if leaf.size)


def test_vmap_of_apply():
    network, variables = _drawn("plain3", (2, 1, 1))
    logits = jax.jit(network.apply)(variables, IMAGES)
    batches = IMAGES.reshape(2, 2, *IMAGES.shape[1:])
    apart = jax.jit(jax.vmap(network.apply, (None, 0)))(variables, batches)
    np.testing.assert_allclose(apart.reshape(logits.shape), logits, atol=1e-5)


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "basic5"}, "did you mean 'basic"),
        ({"depths": (1, 1)}, "give 3 whole numbers"),
        ({"depths": (1, 0, 1)}, "at least 1"),
        ({"depths": (1, 1.5, 1)}, "whole numbers"),
        ({"depths": 3}, "give 3 whole numbers"),
        ({"depths": "111"}, "whole numbers"),
        ({"num_classes": 0}, "num_classes 0"),
        ({"image_channels": 0}, "image_channels 0"),
        ({"stem": "large"}, "choose one of small, imagenet"),
        ({"dtype": "float23"}, "choose one of float32, bfloat16"),
        ({"dtype": jnp.int32}, "choose one of float32, bfloat16"),
        ({"bn_scale_init": "zeros"}, "choose one of ones, uniform"),
        ({"kernel_init": "xavier"}, "choose one of torch, he, lecun"),
    ],
)
def test_mistakes_in_building_are_told(arguments, message):
    with pytest.raises(UserError, match=message):
        build_network(**{"family": "plain3", "depths": (1, 1, 1), **arguments})


def test_depths_may_be_numpys():
    network = build_network("plain3", np.array([2, 1, 1]))
    assert network.depths == (2, 1, 1)
    assert [type(depth) for depth in network.depths] == [int] * 3


@pytest.mark.parametrize("shape", [(4, 8, 8, 1), (8, 8, 3), (4, 3, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    network, variables = _drawn("plain3", (2, 1, 1))
    with pytest.raises(UserError, match=r"takes \[N, H, W, 3\]"):
        network.apply(variables, jnp.zeros(shape))


@pytest.mark.parametrize("collections", [["params", "batch_stats"], ["params"], ["batch_stats"]])
@pytest.mark.parametrize(("depths", "live_depths"), [((1, 1, 1), None), ((3, 1, 1), (1, 1, 1))])
def test_variables_of_other_depths_are_refused(depths, live_depths, collections):
    network, variables = _drawn("plain3", (2, 1, 1))
    _, others = _drawn("plain3", depths)
    mixed = {**variables, **{name: others[name] for name in collections}}
    live = None if live_depths is None else jnp.asarray(live_depths)
    message = f"stage 0 was built with 2 blocks, its {collections[0]} hold {depths[0]}"
    with pytest.raises(UserError, match=message):
        network.apply(mixed, IMAGES, live_depths=live)


# A family of one's own


class GatedBlock(nn.Module):
    """A 1x1 convolution added to the input, with a bare parameter beside the layers."""

    features: int
    stride: int = 1
    options: BlockOptions = BlockOptions()

    @nn.compact
    def __call__(self, x, train):
        conv = functools.partial(blocks.conv, self.options, self.features, use_bias=False)
        y = conv(1, self.stride, x.shape[-1], name="conv")(x)
        y = layers.BatchNorm(self.options, train, name="norm")(y)
        y = y * self.param("gate", nn.initializers.ones, (1, 1, 1, self.features))
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv(1, self.stride, x.shape[-1], name="project")(x)
        return nn.relu(x + y)


@pytest.fixture
def gated():
    """The name of a registered family, taken back afterwards."""
    name = "gated2"
    register_family(name, Family(GatedBlock, (4, 8), 4, 0.1, True, "norm"))
    yield name
    del FAMILIES[name]


def test_a_family_of_ones_own_is_built_and_grown(gated):
    network = build_network(gated, (1, 2), num_classes=3)
    variables = jax.jit(network.init)(KEY, IMAGES)
    assert set(variables["params"]["stage1"]["rest"]) == {"conv", "norm", "gate"}
    deeper, grown = grow(network, variables, stage=1, key=KEY, initializer="morphism")
    assert deeper.depths == (1, 3)
    np.testing.assert_allclose(
        deeper.apply(grown, IMAGES), network.apply(variables, IMAGES), atol=1e-5
    )
    _, other = grow(network, variables, stage=1, key=KEY, initializer="gaussian")
    assert jnp.all(other["params"]["stage1"]["rest"]["norm"]["scale"][1] != 0)
    np.testing.assert_array_equal(other["params"]["stage1"]["rest"]["gate"], 1.0)


def test_a_wrong_last_bn_is_told(gated):
    FAMILIES[gated] = FAMILIES[gated]._replace(last_bn="bn2")
    network = build_network(gated, (1, 1))
    variables = jax.jit(network.init)(KEY, IMAGES)
    with pytest.raises(UserError, match=r"last_bn is 'bn2', but a block has .*norm"):
        grow(network, variables, stage=0, key=KEY, initializer="gaussian")
    deeper, _ = grow(network, variables, stage=0, key=KEY, initializer="default")
    assert deeper.depths == (2, 1)


class GeluBlock(nn.Module):
    """A 3x3 convolution, GELU: no kernel makes it the identity of what it makes itself."""

    features: int
    stride: int = 1
    options: BlockOptions = BlockOptions()

    @nn.compact
    def __call__(self, x, train):
        x = blocks.conv(self.options, self.features, 3, self.stride, x.shape[-1], name="conv1")(x)
        return nn.gelu(x)


@pytest.mark.parametrize("traced", [False, True])
def test_a_morphism_that_would_change_the_net_is_refused(gated, traced):
    FAMILIES[gated] = Family(GeluBlock, (4, 8), 4, 0.1, False, batch_norm=False, name=gated)
    network = build_network(gated, (1, 1))
    shapes = jax.eval_shape(network.init, KEY, IMAGES)
    variables = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)
    how = functools.partial(grow, network, stage=1, key=KEY, initializer="morphism")
    with pytest.raises(UserError, match=r"'gated2' then changes its input by 0\.\d+ .*ReLU"):
        jax.eval_shape(how, shapes) if traced else how(variables)


def test_an_initializer_of_ones_own_that_says_so_has_to_make_the_identity(gated):
    register_initializer("mine", lambda key, block, context: block, identity=True)
    try:
        network = build_network(gated, (1, 1))
        shapes = jax.eval_shape(network.init, KEY, IMAGES)
        with pytest.raises(UserError, match="'mine' makes a new block the identity, but"):
            jax.eval_shape(
                lambda shapes: grow(network, shapes, stage=1, key=KEY, initializer="mine")[1],
                shapes,
            )
    finally:
        del INITIALIZERS["mine"]


@pytest.mark.parametrize("name", ["morphism", "gaussian", "uniform", "adam"])
def test_a_misfit_is_refused_with_the_config_and_no_device(gated, name, monkeypatch):
    def look():
        raise AssertionError("looked for devices")

    monkeypatch.setattr(jax, "default_backend", look)
    config = {"model": {"family": gated}, "growth": {"initializer": name}}
    resolve(config)
    FAMILIES[gated] = FAMILIES[gated]._replace(identity="scale")
    with pytest.raises(UserError, match=f"config.growth.initializer is '{name}': .*'scale'"):
        resolve(config)
    resolve({**config, "growth": {"initializer": "default"}})
    resolve({**config, "mode": "scratch", "finetune": {"epochs": 1}})


def test_what_an_initializer_returns_in_another_form_is_refused_with_the_config():
    def start(key, block, context):
        assert jax.tree.structure(context.previous) == jax.tree.structure(block)
        assert context.ema["conv1"]["kernel"].shape == (3, 3, 16, 16)
        return {**block, "params": context.outputs(block)}

    register_initializer("mine", start, needs_images=True)
    try:
        with pytest.raises(UserError, match=r"is 'mine': .*\['params'\]"):
            resolve({"growth": {"initializer": "mine"}, "optimizer": {"ema": 0.9}})
    finally:
        del INITIALIZERS["mine"]


def test_a_name_is_given_once(gated):
    for name in (gated, "plain3"):
        with pytest.raises(UserError, match="choose another name"):
            register_family(name, FAMILIES["basic3"])
