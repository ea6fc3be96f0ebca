"""Every transformation of JAX holds for a net of exact depth, and what does not is said in words.

The references are taken by reverse mode alone, or with convolutions and their derivatives by JAX.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from autogrow_jax.errors import UserError
from autogrow_jax.growth import append_block, get_initializer, grow
from autogrow_jax.macs import CANONICAL
from autogrow_jax.models import FAMILIES, build_network, layers
from autogrow_jax.models.convolution import (
    DIMENSION_NUMBERS,
    convolution,
    why_not_native,
)
from autogrow_jax.trees import cut, pad

pytestmark = pytest.mark.usefixtures("quick_compilation")

_rng = np.random.default_rng(0)
IMAGES = jnp.asarray(_rng.standard_normal((3, 6, 6, 2)), jnp.float32)
LABELS = jnp.asarray([0, 1, 2])
LIVE = jnp.asarray([1, 2])
needs_native = pytest.mark.skipif(bool(why_not_native()), reason="no kernels of our own")


@functools.cache
def _net(kind="plain3", depths=(1, 2), **options):
    family = FAMILIES[kind]._replace(widths=(4, 6), stem_width=4)
    network = build_network(family, depths, num_classes=3, image_channels=2, **options)
    return network, _draw(network, 1)


def _draw(network, seed):
    """Variables by NumPy, which needs nothing to be compiled."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        return jnp.asarray(0.5 + 0.3 * rng.standard_normal(leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(network.init, jax.random.key(0), IMAGES[:1])
    return jax.tree.map(draw, shapes)


def _loss(network, variables, live_depths=None, train=True):
    def loss(params, images=IMAGES):
        logits, _ = network.apply(
            {**variables, "params": params},
            images,
            train=train,
            live_depths=live_depths,
            mutable=["batch_stats"],
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    return loss


def _assert_close(found, expected, rtol=1e-3):
    """Within `rtol` of the largest number of a leaf; one of them is no zero."""
    assert any(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=0, atol=rtol * float(np.max(np.abs(b), initial=1e-6))
        ),
        found,
        expected,
    )


def _products(loss, params, direction):
    """The Hessian times a direction in all four ways, by name."""

    def slope(params):
        return sum(map(jnp.vdot, *map(jax.tree.leaves, (jax.grad(loss)(params), direction))))

    return {
        "forward over reverse": lambda p: jax.jvp(jax.grad(loss), (p,), (direction,))[1],
        "reverse over forward": jax.grad(lambda p: jax.jvp(loss, (p,), (direction,))[1]),
        "reverse over reverse": jax.grad(slope),
        "linearised": lambda p: jax.linearize(jax.grad(loss), p)[1](direction),
    }


@pytest.fixture
def by_jax(monkeypatch):
    """Calls a function with the convolutions that JAX has."""

    def convolve(x, kernel, strides, padding, **_):
        return lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=DIMENSION_NUMBERS
        )

    def call(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setitem(layers._CONVOLVE, "xla", convolve)
            assert CANONICAL not in str(jax.make_jaxpr(function)(*arguments))
            return jax.jit(lambda *given: function(*given))(*arguments)

    return call


@pytest.mark.parametrize(
    ("kind", "train"),
    [pytest.param("basic3", True, marks=pytest.mark.slow), ("plain3_nobn", False)],
)
def test_forward_mode_and_products_with_the_hessian(kind, train, by_jax):
    network, variables = _net(kind)
    loss, params = _loss(network, variables, train=train), variables["params"]
    direction = _draw(network, 2)["params"]
    reference = _products(loss, params, direction)["reverse over reverse"]
    gradient, expected = by_jax(lambda p: (jax.grad(loss)(p), reference(p)), params)
    ways = {
        **_products(loss, params, direction),
        "slope": lambda p: jax.jvp(loss, (p,), (direction,))[1],
        "of checkpoint": lambda p: jax.jvp(jax.grad(jax.checkpoint(loss)), (p,), (direction,))[1],
    }
    found = jax.jit(lambda p: {name: way(p) for name, way in ways.items()})(params)
    slope = sum(map(jnp.vdot, *map(jax.tree.leaves, (gradient, direction))))
    _assert_close(found.pop("slope"), slope)
    for way in found.values():
        _assert_close(way, expected, 3e-3)


def test_tangent_kernel_of_a_small_net(by_jax):
    """Its entries are the products of per-image gradients: by reverse mode, forward mode, JAX."""
    network, variables = _net(remat=True)
    params = variables["params"]

    def logits(params, image):
        return network.apply({**variables, "params": params}, image[None])[0]

    def kernel(jacobian):
        def run(params):
            rows = jax.vmap(jacobian(logits), (None, 0))(params, IMAGES)
            rows = [leaf.reshape(3, 3, -1) for leaf in jax.tree.leaves(rows)]
            return sum(jnp.einsum("iap,jbp->ijab", leaf, leaf) for leaf in rows)

        return run

    def by_tangents(params):
        """Without Jacobians: a row of the kernel is a pullback and a push forward."""

        def row(image, cotangent):
            (gradient,) = jax.vjp(lambda p: logits(p, image), params)[1](cotangent)
            return jax.vmap(
                lambda other: jax.jvp(lambda p: logits(p, other), (params,), (gradient,))[1]
            )(IMAGES)

        rows = jax.vmap(jax.vmap(row, (None, 0)), (0, None))(IMAGES, jnp.eye(3))
        return jnp.moveaxis(rows, 1, 2)

    expected = by_jax(kernel(jax.jacrev), params)
    ways = (kernel(jax.jacrev), kernel(jax.jacfwd), by_tangents)
    for found in jax.jit(lambda p: [way(p) for way in ways])(params):
        _assert_close(found, expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_floats(dtype):
    network, variables = _net()
    narrow, _ = _net(dtype=dtype)
    direction = _draw(network, 2)["params"]

    def run(network):
        loss = _loss(network, variables)
        slope = jax.jvp(loss, (variables["params"],), (direction,))
        return slope, jax.grad(loss)(variables["params"])

    found, expected = jax.jit(lambda: (run(narrow), run(network)))()
    _assert_close(found[0], expected[0], 0.1)
    _assert_close(found[1]["head"], expected[1]["head"], 0.1)
    assert found[0][0] != expected[0][0]


def test_nets_side_by_side_have_the_gradients_of_each(by_jax):
    """By `vmap` over their parameters, and over their images too or not; of the sum of all, too."""
    network, variables = _net("basic3", (2, 1))
    loss = _loss(network, variables)
    params = jax.tree.map(lambda a: np.stack([a, 0.5 * a]), variables["params"])
    given = {0: np.stack([IMAGES, 2 * IMAGES]), None: IMAGES}

    def gradients_of_many(axis, images):
        return jax.vmap(jax.grad(loss), (0, axis))(params, images)

    def gradient_of_many(axis, images):
        many = jax.vmap(loss, (0, axis))
        return jax.grad(lambda params: jnp.sum(many(params, images)))(params)

    def one_by_one(pairs):
        return lax.map(lambda pair: jax.grad(loss)(*pair), pairs)

    # The nets one after the other, each on its own images and then each on the same.
    twice = jax.tree.map(lambda a: np.concatenate([a, a]), params)
    each = by_jax(one_by_one, (twice, np.stack([*given[0], IMAGES, IMAGES])))
    for nets, (axis, images) in zip((slice(2), slice(2, 4)), given.items(), strict=True):
        expected = jax.tree.map(lambda a, nets=nets: np.asarray(a)[nets], each)
        for run in (gradients_of_many, gradient_of_many):
            _assert_close(jax.jit(functools.partial(run, axis))(images), expected)


def test_convolutions_side_by_side_stay_in_canonical_form():
    """Also where the derivative is taken of many: no other form is quick in a loop of a CPU."""
    x, kernel = jnp.ones((2, 3, 6, 6, 4)), jnp.ones((2, 3, 3, 4, 5))

    def total(axes, x, kernel):
        run = jax.vmap(lambda x, k: convolution(x, k, (1, 1), ((1, 1), (1, 1))), axes)
        return jnp.sum(jnp.square(run(x, kernel)))

    for axes in ((0, 0), (0, None), (None, 0)):
        given = [a if axis == 0 else a[0] for a, axis in zip((x, kernel), axes, strict=True)]
        gradient = jax.grad(functools.partial(total, axes), (0, 1))
        text = str(jax.make_jaxpr(gradient)(*given))
        assert text.count(f"= {CANONICAL}") == 3
        assert "conv_general_dilated" not in text


# What there is not


def _refusals(network, variables, live_depths=None):
    """What a derivative that is refused says, by name."""
    loss, params = _loss(network, variables, live_depths), variables["params"]
    direction = jax.tree.map(jnp.ones_like, params)
    ways = {
        **_products(loss, params, direction),
        "jvp": lambda p: jax.jvp(loss, (p,), (direction,)),
        "linearize": lambda p: jax.linearize(loss, p)[1](direction),
        "of the images": lambda p: jax.jacfwd(lambda x: loss(p, x))(IMAGES),
    }
    said = {}
    for name, way in ways.items():
        try:
            jax.jit(way).lower(params)
        except UserError as error:
            said[name] = str(error)
    return said


def test_depth_as_data_says_which_derivatives_there_are_not():
    said = _refusals(*_net(), LIVE)
    forward, second = {"jvp", "linearize", "of the images"}, {"reverse over reverse"}
    assert set(said) == forward | second | {"reverse over forward"}
    assert all("no other forward mode" in said[name] for name in forward)
    assert all("no reverse mode of a gradient" in said[name] for name in second)


def test_depth_as_data_has_products_with_the_hessian():
    network, variables = _net()
    params, direction = variables["params"], _draw(network, 2)["params"]

    def product(live_depths):
        loss = _loss(network, variables, live_depths)
        return jax.jvp(jax.grad(loss), (params,), (direction,))[1]

    _assert_close(jax.jit(product)(jnp.asarray([2, 2])), jax.jit(lambda: product(None))())


@needs_native
@pytest.mark.parametrize("kind", ["basic3", "plain3_nobn"])
def test_kernels_of_our_own_say_which_derivatives_there_are_not(kind):
    """A stack and layers in one call each, and convolutions alone."""
    said = _refusals(*_net(kind, convolution="native"))
    forward = {"jvp", "linearize", "of the images", "reverse over forward"}
    assert forward <= set(said)
    assert all("has no forward mode" in said[name] for name in forward - {"reverse over forward"})
    second = {name: text for name, text in said.items() if name not in forward}
    assert all("build the network with convolution='xla'" in text for text in second.values())
    wanted = {"forward over reverse", "linearised"}
    assert set(second) - wanted == (set() if kind == "plain3_nobn" else {"reverse over reverse"})
    assert wanted <= set(second)


@needs_native
def test_kernels_of_our_own_under_vmap():
    network, variables = _net("basic3", convolution="native")
    plain, _ = _net("basic3")
    params = jax.tree.map(lambda a: np.stack([a, 0.5 * a]), variables["params"])
    found, expected = (
        jax.jit(jax.vmap(jax.value_and_grad(_loss(net, variables))))(params)
        for net in (network, plain)
    )
    _assert_close(found, expected)


# Depths side by side


@pytest.mark.parametrize(
    ("kind", "convolution"),
    [("switch3", "xla"), pytest.param("plain3", "native", marks=needs_native)],
)
def test_nets_of_different_depths_side_by_side(kind, convolution):
    """Values, statistics and gradients are those of each alone; dead slots stay as they are."""
    network, variables = _net(kind, (1, 4), convolution=convolution)
    depths = jnp.asarray([[1, 1], [1, 4], [1, 2]])

    def step(variables, live_depths):
        def loss(params):
            logits, updated = network.apply(
                {**variables, "params": params},
                IMAGES,
                train=True,
                live_depths=live_depths,
                mutable=["batch_stats"],
            )
            return jnp.sum(jnp.sin(logits)), updated

        evaluated = network.apply(variables, IMAGES, live_depths=live_depths)
        return evaluated, jax.value_and_grad(loss, has_aux=True)(variables["params"])

    # By NumPy, which needs no program for each shape.
    many = jax.tree.map(lambda a: np.stack([a, 0.5 * a, 2 * a]), variables)
    found = jax.device_get(jax.jit(jax.vmap(step))(many, depths))
    alone = jax.jit(step)
    for i, live in enumerate(depths):
        own = jax.tree.map(lambda a, i=i: a[i], many)
        expected = alone(own, live)
        _assert_close(jax.tree.map(lambda a, i=i: a[i], found), expected)
        (_, ((_, updated), grads)) = jax.tree.map(lambda a, i=i: a[i], found)
        for stage, depth in enumerate(live):
            name, dead = f"stage{stage}", slice(int(depth) - 1, None)
            for grad in jax.tree.leaves(grads[name]["rest"]):
                np.testing.assert_array_equal(grad[dead], 0)
            pair = updated["batch_stats"][name]["rest"], own["batch_stats"][name]["rest"]
            jax.tree.map(
                lambda a, b, dead=dead: np.testing.assert_array_equal(a[dead], b[dead]), *pair
            )


def test_the_deepest_of_many_says_how_often_the_loop_turns():
    """The number of the turn is no array of many: slots are read by one index for all nets."""
    network, variables = _net("plain3_nobn", (2, 3))

    def run(live_depths):
        return network.apply(variables, IMAGES, live_depths=live_depths)

    text = str(jax.make_jaxpr(jax.vmap(run))(jnp.asarray([[1, 3], [2, 1]])))
    assert "gather" not in text
    assert "dynamic_slice" in text


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
def test_any_kind_of_random_keys(kind):
    """A stage of one block too; and a block starts the same whatever the depth."""
    key = jax.random.key(3, impl=kind)
    shallow, deep = (
        jax.jit(_net(depths=depths)[0].init)(key, IMAGES) for depths in ((1, 2), (1, 3))
    )
    pair = (net["params"]["stage1"]["rest"]["conv1"]["kernel"] for net in (shallow, deep))
    np.testing.assert_array_equal(*(kernels[0] for kernels in pair))
    deeper, grown = grow(_net()[0], shallow, stage=0, key=key)
    gradients = jax.jit(jax.grad(_loss(deeper, grown)))(grown["params"])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


def test_nets_grow_in_place_side_by_side():
    """Each at its own depth; a stage that is full stays as it is, and padding is undone."""
    roomy, _ = _net("basic3", (1, 3))
    _, variables = _net("basic3", (1, 2))
    padded = pad(variables, roomy.depths)
    jax.tree.map(np.testing.assert_array_equal, cut(padded, (1, 2)), variables)
    with pytest.raises(UserError, match="no room for"):
        pad(variables, (1, 1))
    keys = jax.random.split(jax.random.key(0), 3)

    def deepen(key, live):
        return append_block(roomy, padded, 1, key, get_initializer("gaussian"), live)

    depths = jnp.asarray([[1, 1], [1, 2], [1, 3]])
    many = jax.jit(jax.vmap(deepen))(keys, depths)
    for i, (key, live) in enumerate(zip(keys, depths, strict=True)):
        one = jax.jit(deepen)(key, live)
        own = jax.tree.map(lambda a, i=i: a[i], many)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), own, one)
        changed = [
            bool(np.any(a != b))
            for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(padded), strict=True)
        ]
        assert any(changed) == (i < 2)


def test_growth_draws_the_new_block_alone():
    """And morphism of a plain block, which is written from its input, draws nothing."""
    network, variables = _net("plain3")
    key = jax.random.key(0)
    draws = {
        name: jax.jit(
            lambda v, k, x, name=name: grow(network, v, stage=1, key=k, initializer=name, images=x)[
                1
            ]
        )
        .lower(variables, key, IMAGES)
        .as_text()
        .count("call @_uniform")
        for name in ("default", "morphism")
    }
    assert draws == {"default": 1, "morphism": 0}
