"""How a new block starts: the distributions the paper names, and what stays as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from autogrow_jax.errors import UserError
from autogrow_jax.growth import INITIALIZERS, Context, get_initializer, register_initializer
from autogrow_jax.growth.initializers import trained_by_adam
from autogrow_jax.models import Family, get_family

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
MANY = 20_000
RESIDUAL = ["basic3", "basic4", "bottleneck4", "switch3"]
PLAIN = ["plain3", "plain4", "plain3_nobn", "plain4_nobn"]


def _residual_block(family, width=MANY):
    """A block as its initialiser sees it, so wide that its numbers are a sample to test."""
    bn = {"scale": jnp.full(width, 7.0), "bias": jnp.full(width, 7.0)}
    names = ["bn1", "bn2", "bn3"] if family == "bottleneck4" else ["bn1", "bn2"]
    params = {"conv1": {"kernel": jnp.full((3, 3, 2, 2), 7.0)}, **{name: bn for name in names}}
    moments = {"mean": jnp.zeros(width), "var": jnp.ones(width)}
    return {"params": params, "batch_stats": {name: moments for name in names}}


def _plain_block(family, channels=4, features=4):
    conv = {"kernel": jnp.full((3, 3, channels, features), 7.0)}
    if family.endswith("nobn"):
        return {"params": {"conv1": {**conv, "bias": jnp.full(features, 7.0)}}}
    bn = {"scale": jnp.full(features, 7.0), "bias": jnp.full(features, 7.0)}
    moments = {"mean": jnp.zeros(features), "var": jnp.ones(features)}
    return {"params": {"conv1": conv, "bn1": bn}, "batch_stats": {"bn1": moments}}


def _start(name, block, family, **context):
    return get_initializer(name).start(KEY, block, Context(get_family(family), **context))


def _changed(old, new):
    """The paths of the leaves that an initialiser wrote."""
    new_leaves = jax.tree.leaves(new)
    assert jax.tree.structure(old) == jax.tree.structure(new)
    return {
        "/".join(key.key for key in path)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(old), new_leaves, strict=True)
        if jnp.any(a != b)
    }


@pytest.mark.parametrize("family", RESIDUAL)
@pytest.mark.parametrize(
    ("name", "distribution"), [("uniform", stats.uniform(0, 1)), ("gaussian", stats.norm(0, 1))]
)
def test_residual_blocks_draw_scale_and_shift_of_the_last_normalisation(family, name, distribution):
    block = _residual_block(family)
    new = _start(name, block, family)
    last = "bn3" if family == "bottleneck4" else "bn2"
    assert _changed(block, new) == {f"params/{last}/scale", f"params/{last}/bias"}
    scale, bias = (np.asarray(new["params"][last][leaf]) for leaf in ("scale", "bias"))
    for sample in (scale, bias):
        # The key is fixed: this is no game of chance, it tells the right law from wrong ones.
        assert stats.kstest(sample, distribution.cdf).pvalue > 1e-3
        lowest, highest = distribution.support()
        assert lowest <= sample.min() and sample.max() < highest
    assert abs(np.corrcoef(scale, bias)[0, 1]) < 0.03, "scale and shift are drawn alike"


@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize("name", ["uniform", "gaussian"])
def test_plain_blocks_draw_their_kernel(family, name):
    block = _plain_block(family, 16, 512)
    new = _start(name, block, family)
    assert _changed(block, new) == {"params/conv1/kernel"}
    fan_in = 9 * 16
    bound = (6 / fan_in) ** 0.5
    law = stats.norm(0, (2 / fan_in) ** 0.5)
    if name == "uniform":
        law = stats.uniform(-bound, 2 * bound)
    sample = np.asarray(new["params"]["conv1"]["kernel"]).ravel()
    assert stats.kstest(sample, law.cdf).pvalue > 1e-3
    np.testing.assert_allclose(sample.var(), 2 / fan_in, rtol=0.02)  # Both have He's variance.


def _own_block(width=4000):
    """A block of a family of one's own: a branch with a depthwise and a last layer, and a gate."""
    branch = {
        "depthwise": {"kernel": jnp.full((3, 3, 1, 8), 7.0)},
        "last": {"kernel": jnp.full((3, 3, 8, width), 7.0), "bias": jnp.full(width, 7.0)},
    }
    return {"params": {"branch": branch, "gate": jnp.full((1, 1, 1, width), 7.0)}}


def _own_family(identity, residual=True):
    return Family(None, (8,), 8, 0.1, residual, "", False, "mine", identity)


@pytest.mark.parametrize("name", ["gaussian", "uniform", "morphism"])
def test_what_a_family_names_decides(name):
    """Kernels by their fan-in, wherever they are, all else as scale and shift of a last BN."""
    block = _own_block()
    family = _own_family(("branch/last", "gate"))
    new = get_initializer(name).start(KEY, block, Context(family))
    written = {"branch/last/kernel", "branch/last/bias", "gate"}
    assert _changed(block, new) == {f"params/{path}" for path in written}
    branch = new["params"]["branch"]["last"]
    found = branch["kernel"].ravel(), branch["bias"], new["params"]["gate"].ravel()
    fan_in, is_uniform = 9 * 8, name == "uniform"
    laws = (2 / fan_in, 1 / 12, 1 / 12) if is_uniform else (2 / fan_in, 1.0, 1.0)
    for sample, variance in zip(found, laws, strict=True):
        np.testing.assert_allclose(jnp.var(sample), variance if name != "morphism" else 0, rtol=0.1)
        mean = 0.5 if is_uniform and sample is not found[0] else 0.0
        np.testing.assert_allclose(jnp.mean(sample), mean, atol=0.06)
    assert not jnp.array_equal(found[1], found[2]) or name == "morphism"


def test_a_plain_block_may_hold_its_kernels_in_parts():
    block = _own_block(8)
    inputs = jax.random.normal(KEY, (2, 5, 5, 8))
    new = get_initializer("morphism").start(KEY, block, Context(_own_family("", residual=False)))
    for name, groups in (("depthwise", 8), ("last", 1)):
        kernel = new["params"]["branch"][name]["kernel"]
        outputs = jax.lax.conv_general_dilated(
            inputs,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        np.testing.assert_allclose(outputs, inputs, rtol=1e-6)
    np.testing.assert_array_equal(new["params"]["branch"]["last"]["bias"], 0.0)
    other = get_initializer("gaussian").start(KEY, block, Context(_own_family("", residual=False)))
    assert _changed(block, other) == {
        f"params/branch/{layer}/kernel" for layer in ("depthwise", "last")
    }


@pytest.mark.parametrize("name", ["morphism", "zero", "gaussian", "uniform", "adam"])
@pytest.mark.parametrize(
    ("identity", "said"), [("", "last_bn is ''"), (("gate", "scale"), "identity is 'scale'")]
)
def test_a_family_that_does_not_say_how_is_told_and_nothing_is_done_in_silence(
    name, identity, said
):
    message = f"the family's {said}, but a block has branch/depthwise/kernel, .*gate; say in"
    with pytest.raises(UserError, match=message):
        get_initializer(name).start(KEY, _own_block(8), Context(_own_family(identity)))


def test_adam_trains_what_a_family_names():
    path = [jax.tree_util.DictKey(name) for name in ("branch", "last", "kernel")]
    for identity, trains in (("branch/last", True), ("branch", True), ("last", False)):
        assert trained_by_adam(_own_family(identity), tuple(path)) is trains


@pytest.mark.parametrize("name", ["morphism", "zero"])
@pytest.mark.parametrize("family", RESIDUAL)
def test_morphism_of_a_residual_block_silences_its_branch(family, name):
    block = _residual_block(family, 8)
    new = _start(name, block, family)
    last = new["params"][get_family(family).last_bn]
    np.testing.assert_array_equal(jnp.stack([last["scale"], last["bias"]]), 0.0)
    assert len(_changed(block, new)) == 2


@pytest.mark.parametrize("family", PLAIN)
def test_morphism_of_a_plain_block_is_the_identity_kernel(family):
    inputs = jnp.abs(jax.random.normal(KEY, (8, 5, 5, 4))) * jnp.array([0.0, 1.0, 3.0, 10.0])
    new = _start("morphism", _plain_block(family), family, inputs=inputs)
    conv = new["params"]["conv1"]
    np.testing.assert_array_equal(conv["kernel"][1, 1], np.eye(4))
    assert float(jnp.sum(jnp.abs(conv["kernel"]))) == 4.0
    if family.endswith("nobn"):
        np.testing.assert_array_equal(conv["bias"], 0.0)
        return
    scale, shift = new["params"]["bn1"]["scale"], new["params"]["bn1"]["bias"]
    mean, var = new["batch_stats"]["bn1"]["mean"], new["batch_stats"]["bn1"]["var"]
    np.testing.assert_allclose(mean, np.mean(inputs, (0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var, np.var(inputs, (0, 1, 2)), rtol=1e-4)
    # The normalisation undoes itself, for a channel that is always zero too.
    normalised = (inputs - mean) / jnp.sqrt(var + 1e-5) * scale + shift
    np.testing.assert_allclose(normalised, inputs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["basic3", "plain3", "plain3_nobn"])
def test_default_changes_nothing(family):
    block = _residual_block(family, 8) if family == "basic3" else _plain_block(family)
    assert _changed(block, _start("default", block, family)) == set()


@pytest.mark.parametrize("family", ["basic3", "plain3", "plain3_nobn"])
def test_adam_lowers_the_loss_by_what_it_may_change(family):
    block = _residual_block(family, 8) if family == "basic3" else _plain_block(family)

    def loss(variables):
        value = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(variables["params"]))
        return value, jax.tree.map(lambda a: a + 1.0, variables.get("batch_stats", {}))

    # Optax raises a number to its integer count of steps.
    with jax.numpy_dtype_promotion("standard"):
        new = _start("adam", block, family, loss=loss)
    params = {path for path in _changed(block, new) if path.startswith("params")}
    every = {
        "/".join(key.key for key in path)
        for path, _ in jax.tree_util.tree_leaves_with_path({"params": block["params"]})
    }
    assert params == ({p for p in every if "bn2" in p} if family == "basic3" else every)
    assert loss(new)[0] < loss(block)[0]
    # Far from the minimum a step of Adam is as long as its rate.
    for path in params:
        _, layer, leaf = path.split("/")
        np.testing.assert_allclose(new["params"][layer][leaf], 7.0 - 100 * 1e-3, atol=0.01)
    moved = jax.tree.map(lambda a: a + 100.0, block.get("batch_stats", {}))
    jax.tree.map(np.testing.assert_array_equal, new.get("batch_stats", {}), moved)


def test_adam_adds_its_l2_to_the_gradient():
    """With no other gradient, L2 in the gradient moves Adam by its full rate."""
    block = _plain_block("plain3_nobn")
    with jax.numpy_dtype_promotion("standard"):
        new = _start("adam", block, "plain3_nobn", loss=lambda variables: (0.0, {}))
    np.testing.assert_allclose(new["params"]["conv1"]["kernel"], 7.0 - 100 * 1e-3, atol=0.01)


def test_two_keys_give_two_starts_and_one_key_one():
    block = _residual_block("basic3", 8)
    context = Context(get_family("basic3"))
    starts = [
        get_initializer("gaussian").start(jax.random.key(seed), block, context)
        for seed in (1, 1, 2)
    ]
    assert _changed(starts[0], starts[1]) == set()
    assert _changed(starts[0], starts[2]) == {"params/bn2/scale", "params/bn2/bias"}


@pytest.fixture
def registered():
    """Registers under a name that is taken back afterwards."""
    name = "of_my_own"

    def register(start, **needs):
        register_initializer(name, start, **needs)
        return name

    yield register
    INITIALIZERS.pop(name, None)


def test_an_initializer_of_ones_own_is_found(registered):
    def halve(key, block, context):
        return jax.tree.map(lambda a: a / 2, block)

    name = registered(halve, needs_labels=True)
    chosen = get_initializer(name)
    assert (chosen.start, chosen.needs_images, chosen.needs_labels) == (halve, True, True)
    with pytest.raises(UserError, match="choose another name"):
        register_initializer(name, halve)


def test_an_initializer_of_ones_own_may_need_data_and_pretraining_as_ours_do(registered):
    name = registered(
        lambda key, block, context: block, needs_images=lambda f: f.residual, pretrain=True
    )
    chosen = get_initializer(name)
    assert chosen.pretrain
    assert chosen.needs_data(get_family("basic3"))
    assert not chosen.needs_data(get_family("plain3"))
    assert get_initializer("adam").pretrain
    assert not get_initializer("morphism").needs_data(get_family("plain3_nobn"))
    assert get_initializer("morphism").needs_data(get_family("plain3"))


def test_names_that_are_not_there_or_taken():
    with pytest.raises(UserError, match="did you mean 'gaussian'"):
        get_initializer("gausian")
    with pytest.raises(UserError, match="choose another name"):
        register_initializer("zero", lambda key, block, context: block)
