"""Our networks compute what the authors' PyTorch networks compute.

`torch_parity.json` was recorded with PyTorch and covers two families; the reference below covers
all of them. It walks the names of a state dict in plain numpy and shares no code with ours.
"""

import json
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from autogrow_jax.interop import torch as torch_interop
from autogrow_jax.models import FAMILIES, build_network, num_params

FIXTURE = pathlib.Path(__file__).resolve().parents[1].parent / "shared/fixtures/torch_parity.json"
# The compiler's optimisations cost more here than they save.
QUICK_COMPILATION = {"xla_backend_optimization_level": 0}


# The recorded runs


def _recorded_cases():
    if not FIXTURE.exists():
        return [pytest.param(None, marks=pytest.mark.skip(f"needs {FIXTURE}"))]
    cases = json.loads(FIXTURE.read_text())
    return [pytest.param(case, id=case["family"]) for case in cases]


def _recorded_weight(name, shape):
    """The weights are not in the file; each is drawn from the checksum of its name."""
    z = np.random.default_rng([zlib.crc32(name.encode())]).standard_normal(shape)
    z = z.astype(np.float32)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if len(shape) == 4:
        return z * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    if name == "linear.weight":
        return z * np.float32(0.05)
    if name.endswith("running_var"):
        return 1 + np.float32(0.1) * abs(z)
    if name.endswith(("running_mean", "bias")):
        return np.float32(0.1) * z
    return 1 + np.float32(0.1) * z


def _map_stages(function, tree, *depths):
    """Applies function(leaf, depth, ...) to the leaves of stacked blocks."""

    def apply(path, leaf):
        keys = [entry.key for entry in path]
        if "rest" not in keys:
            return leaf
        stage = int(keys[1].removeprefix("stage"))
        return function(np.asarray(leaf), *(numbers[stage] for numbers in depths))

    return jax.tree_util.tree_map_with_path(apply, tree)


def _pad_stages(tree, depths, capacities):
    """Fills every stage up to its capacity with blocks of NaN, which must never be read."""

    def pad(leaf, depth, capacity):
        free = np.full((capacity - depth, *leaf.shape[1:]), np.nan, leaf.dtype)
        return np.concatenate([leaf, free])

    return _map_stages(pad, tree, depths, capacities)


def _trim_stages(tree, depths):
    return _map_stages(lambda leaf, depth: leaf[: depth - 1], tree, depths)


@pytest.mark.parametrize("padded", [False, True], ids=["exact", "padded"])
@pytest.mark.parametrize("case", _recorded_cases())
def test_five_steps_of_training_match_pytorch(case, padded):
    family, depths = case["family"], tuple(case["depths"])
    state_dict = {name: _recorded_weight(name, s) for name, s in case["spec"].items()}
    variables = torch_interop.variables_from_state_dict(family, depths, state_dict)
    assert num_params(variables) == case["num_params"]
    live_depths, capacities = None, depths
    if padded:
        live_depths, capacities = jnp.asarray(depths), (2, 4, 1)
        variables = _pad_stages(variables, depths, capacities)
    network = build_network(family, capacities, case["num_classes"], case["image_channels"])

    generator = np.random.default_rng(case["input_seed"])
    shape = (case["steps"], case["batch"], case["image_channels"], 32, 32)
    images = generator.standard_normal(shape).astype(np.float32).transpose(0, 1, 3, 4, 2)
    labels = generator.integers(0, case["num_classes"], shape[:2])

    optimiser = optax.chain(
        optax.add_decayed_weights(5e-4), optax.trace(0.9), optax.scale(-case["lr"])
    )

    def evaluate(variables):
        return network.apply(variables, images[0], live_depths=live_depths)

    def step(variables, state, images, labels):
        def loss(params):
            logits, updated = network.apply(
                {**variables, "params": params},
                images,
                train=True,
                live_depths=live_depths,
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updated

        params = variables["params"]
        (value, updated), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimiser.update(grads, state, params)
        return {"params": optax.apply_updates(params, updates), **updated}, state, value

    evaluate = jax.jit(evaluate, compiler_options=QUICK_COMPILATION)
    step = jax.jit(step, compiler_options=QUICK_COMPILATION)
    np.testing.assert_allclose(evaluate(variables), case["eval_logits"], atol=1e-3)

    state, losses = optimiser.init(variables["params"]), []
    for batch, batch_labels in zip(images, labels, strict=True):
        variables, state, value = step(variables, state, batch, batch_labels)
        losses.append(value)
    np.testing.assert_allclose(losses, case["train_losses"], rtol=0.01)

    after = np.asarray(case["eval_logits_after"])
    np.testing.assert_allclose(evaluate(variables), after, atol=0.05 * abs(after).max())


# The reference: PyTorch's arithmetic in numpy, [N, C, H, W], read off the names


def _convolve(x, weight, stride=1, bias=None):
    pad = weight.shape[-1] // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    y = np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
    return y if bias is None else y + bias[:, None, None]


def _max_pool(x):
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2].max((4, 5))


class _Reference:
    """Runs a state dict; in training mode `running` collects the updated running statistics.

    The running variance takes in the unbiased one, n / (n - 1) times as large, n = N * H * W.
    """

    def __init__(self, state_dict, train):
        self.entries, self.train, self.running = state_dict, train, {}

    def __call__(self, images, stem):
        imagenet = stem == "imagenet"
        x = self._layer(images, "conv1", "bn1", 2 if imagenet else 1)
        x = np.maximum(x, 0)
        if imagenet:
            x = _max_pool(x)
        blocks = {tuple(name.split(".")[:2]) for name in self.entries if name.startswith("layer")}
        for stage, block in sorted(blocks):
            x = self._block(x, f"{stage}.{block}", 2 if stage != "layer1" and block == "0" else 1)
        return x.mean((2, 3)) @ self.entries["linear.weight"].T + self.entries["linear.bias"]

    def _block(self, x, block, stride):
        convolutions = sum(name.startswith(f"{block}.conv") for name in self.entries)
        residual = f"{block}.conv2.weight" in self.entries
        if not residual:
            assert convolutions == 1 + (f"{block}.conv1.bias" in self.entries)
            return np.maximum(self._layer(x, f"{block}.conv1", f"{block}.bn1", stride), 0)
        y = x
        for i in range(1, convolutions + 1):
            # The stride is in the first 3x3 convolution.
            strided = i == (2 if convolutions == 3 else 1)
            y = np.maximum(y, 0) if i > 1 else y
            y = self._layer(y, f"{block}.conv{i}", f"{block}.bn{i}", stride if strided else 1)
        y = y * self.entries.get(f"{block}.switch", 1)
        if f"{block}.shortcut.0.weight" in self.entries:
            x = self._layer(x, f"{block}.shortcut.0", f"{block}.shortcut.1", stride)
        return np.maximum(x + y, 0)

    def _layer(self, x, convolution, bn, stride):
        bias = self.entries.get(f"{convolution}.bias")
        x = _convolve(x, self.entries[f"{convolution}.weight"], stride, bias)
        if f"{bn}.weight" not in self.entries:
            return x
        mean, var = (self.entries[f"{bn}.running_{name}"] for name in ("mean", "var"))
        if self.train:
            old, new = (mean, var), (x.mean((0, 2, 3)), x.var((0, 2, 3)))
            count = x.size // x.shape[1]
            self.running[f"{bn}.running_mean"] = 0.9 * old[0] + 0.1 * new[0]
            self.running[f"{bn}.running_var"] = 0.9 * old[1] + 0.1 * new[1] * count / (count - 1)
            mean, var = new
        scale = self.entries[f"{bn}.weight"] / np.sqrt(var + 1e-5)
        shift = self.entries[f"{bn}.bias"] - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def _entry_shapes(family, depths, *, classes, channels, stem):
    """The names and shapes of the authors' state dicts."""
    widths = (16, 32, 64) if "3" in family else (64, 128, 256, 512)
    shapes = {}

    def layer(convolution, bn, features, in_features, size):
        shapes[f"{convolution}.weight"] = (features, in_features, size, size)
        if family.endswith("nobn"):
            shapes[f"{convolution}.bias"] = (features,)
            return
        for entry in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{bn}.{entry}"] = (features,)
        shapes[f"{bn}.num_batches_tracked"] = ()

    def block(name, width, in_features, strided):
        features = 4 * width if family == "bottleneck4" else width
        sizes = {"plain": (3,), "basic": (3, 3), "switc": (3, 3), "bottl": (1, 3, 1)}[family[:5]]
        steps = [in_features, *[width] * (len(sizes) - 1), features]
        for i, size in enumerate(sizes):
            layer(f"{name}.conv{i + 1}", f"{name}.bn{i + 1}", steps[i + 1], steps[i], size)
        if len(sizes) > 1 and (strided or features != in_features):
            layer(f"{name}.shortcut.0", f"{name}.shortcut.1", features, in_features, 1)
        if family == "switch3":
            shapes[f"{name}.switch"] = (1,)
        return features

    features = widths[0]
    layer("conv1", "bn1", features, channels, 7 if stem == "imagenet" else 3)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for i in range(depth):
            features = block(f"layer{stage + 1}.{i}", width, features, stage > 0 and i == 0)
    return {**shapes, "linear.weight": (classes, features), "linear.bias": (classes,)}


def _example(family, *, channels, size, stem):
    # One later block would not show an order; more stages with some cost time and show nothing.
    depths = (1, 3, 1, 1)[: len(FAMILIES[family].widths)]
    shapes = _entry_shapes(family, depths, classes=7, channels=channels, stem=stem)
    state_dict = {name: _recorded_weight(name, shape) for name, shape in shapes.items()}
    images = np.random.default_rng(0).standard_normal((3, channels, *size)).astype(np.float32)
    return depths, state_dict, images


@pytest.mark.parametrize(
    ("stem", "channels", "size"), [("small", 3, (9, 7)), ("imagenet", 1, (37, 33))]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_match_the_reference(family, stem, channels, size):
    depths, state_dict, images = _example(family, channels=channels, size=size, stem=stem)
    variables = torch_interop.variables_from_state_dict(family, depths, state_dict)
    network = build_network(family, depths, 7, channels, stem=stem)
    logits = jax.jit(network.apply, compiler_options=QUICK_COMPILATION)(
        variables, images.transpose(0, 2, 3, 1)
    )
    expected = _Reference(state_dict, train=False)(images, stem)
    assert abs(expected - expected.mean(0)).max() > 0.01, "the images make no difference"
    np.testing.assert_allclose(logits, expected, atol=1e-4 * abs(expected).max())


# One family for each block with batch normalisation.
@pytest.mark.parametrize("family", ["basic3", "plain3", "bottleneck4", "switch3"])
def test_training_statistics_match_the_reference(family):
    """The batch's statistics normalise, the running ones move a tenth of the way."""
    depths, state_dict, images = _example(family, channels=1, size=(10, 9), stem="small")
    variables = torch_interop.variables_from_state_dict(family, depths, state_dict)
    network = build_network(family, (1, 4, *depths[2:]), 7, 1)

    def run(variables, images):
        return network.apply(
            variables,
            images,
            train=True,
            live_depths=jnp.asarray(depths),
            mutable=["batch_stats"],
        )

    logits, updated = jax.jit(run, compiler_options=QUICK_COMPILATION)(
        _pad_stages(variables, depths, (1, 4, 1, 1)), images.transpose(0, 2, 3, 1)
    )
    reference = _Reference(state_dict, train=True)
    expected = reference(images, "small")
    np.testing.assert_allclose(logits, expected, atol=1e-3 * abs(expected).max())

    updated = _trim_stages(updated, depths)
    found = torch_interop.state_dict_from_variables(family, depths, {**variables, **updated})
    assert {name for name in found if ".running_" in name} == reference.running.keys()
    for name, value in reference.running.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("family", "depths", "count"),
    [
        ("basic3", (1, 1, 1), 78_042),
        ("basic3", (2, 1, 1), 82_714),
        ("plain3", (1, 1, 1), 26_682),
        ("basic4", (1, 1, 1, 1), 4_903_242),
    ],
)
def test_parameters_are_as_many_as_the_authors_count(family, depths, count):
    network = build_network(family, depths)
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    assert num_params(variables) == count
