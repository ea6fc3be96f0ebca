"""What a GPU or a TPU is given: programs that lower for it, and one dispatch an epoch.

No accelerator is needed: a program is lowered for another platform than that it is traced on.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from autogrow_jax import config as config_lib
from autogrow_jax.build import load_data
from autogrow_jax.data import Preprocessing
from autogrow_jax.models import build_network
from autogrow_jax.optim import make_optimizer
from autogrow_jax.training.state import init_state, make_mesh
from autogrow_jax.training.step import Recipe, Sums, make_evaluate, make_train_steps
from autogrow_jax.training.trainer import Trainer

_IMAGE_SHAPE = (16, 16, 3)
_BATCH, _IMAGES = 8, 24


def _recipe(family, dtype, exact):
    # "native" is what a config may ask for; a GPU has to be left alone with it.
    network = build_network(family, (2, 2, 2), dtype=dtype, convolution="native")
    return Recipe(
        network=network,
        optimizer=make_optimizer("sgd", momentum=0.9, weight_decay=5e-4),
        preprocessing=Preprocessing((0.5,) * 3, (0.2,) * 3, crop_padding=2, flip=True),
        batch_size=_BATCH,
        ema=0.0,
        parallel="jit",
        mesh=make_mesh(1, _BATCH),
        exact=exact,
    )


def _lower(recipe, platform):
    """The text of a few steps of training and of an evaluation."""
    init = partial(init_state, recipe.network, recipe.optimizer)
    state = jax.eval_shape(lambda key: init(key, _IMAGE_SHAPE, False), jax.random.key(0))
    images = jax.ShapeDtypeStruct((_IMAGES, *_IMAGE_SHAPE), jnp.uint8)
    labels = jax.ShapeDtypeStruct((_IMAGES,), jnp.int32)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    depths = jax.ShapeDtypeStruct((3,), jnp.int32)
    rate = jax.ShapeDtypeStruct((), jnp.float32)
    sums = jax.eval_shape(Sums.zero)

    def train(state, sums, images, labels, order, depths, rate, first, steps):
        key = jax.random.key(0)
        arguments = (state, sums, images, labels, order, key, depths, rate, first, steps)
        return make_train_steps(recipe)(*arguments)

    programs = {
        train: (state, sums, images, labels, labels, depths, rate, number, number),
        make_evaluate(recipe): (state.variables(), images, labels, number, number, depths),
    }
    return "\n".join(
        export.export(jax.jit(function), platforms=[platform])(*arguments).mlir_module()
        for function, arguments in programs.items()
    )


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["plain3", "basic3"])
@pytest.mark.parametrize(("platform", "backend"), [("cuda", "gpu"), ("tpu", "tpu")])
def test_programs_lower_without_what_only_a_cpu_has(
    monkeypatch, platform, backend, family, dtype, exact
):
    recipe = _recipe(family, dtype, exact)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    text = _lower(recipe, platform)
    assert "custom_call @autogrow_" not in text
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert convolutions
    # Computed in the dtype that was asked for.
    wanted = {"float32": "xf32>", "bfloat16": "xbf16>"}[dtype]
    assert all(wanted in line for line in convolutions)


@pytest.fixture
def dispatches(monkeypatch):
    """Kinds of the programs called, in order."""
    called = []

    def make(**changes):
        config = config_lib.default_config()
        config.update_from_flattened_dict(
            {"data.fraction": 0.2, "data.batch_size": 32, "num_devices": 1, **changes}
        )
        resolved = config_lib.resolve(config)
        trainer = Trainer(resolved, load_data(resolved))
        call = trainer.programs.call

        def counted(kind, *args, **kwargs):
            called.append(kind)
            return call(kind, *args, **kwargs)

        monkeypatch.setattr(trainer.programs, "call", counted)
        trainer.start()
        called.clear()
        return trainer, called

    return make


def test_an_epoch_on_the_device_is_one_dispatch(dispatches):
    trainer, called = dispatches()
    assert trainer.steps_per_epoch > 5
    sums = trainer.train_epoch(0, 0.01, None)
    assert int(np.asarray(sums.examples)) == 32 * trainer.steps_per_epoch
    trainer.evaluate("validation")
    assert called == ["train", "evaluate"]


def test_with_a_progress_bar_an_epoch_is_a_few(dispatches, monkeypatch):
    # However fast the steps are, each dispatch is twice as long as the one before.
    monkeypatch.setattr("autogrow_jax.training.feed.SECONDS_PER_DISPATCH", 1e9)
    trainer, called = dispatches(**{"data.batch_size": 4})
    seen = []
    trainer.train_epoch(0, 0.01, lambda steps, images: seen.append(steps))
    steps = trainer.steps_per_epoch
    assert len(called) <= np.ceil(np.log2(steps)) + 2 < steps / 4
    assert seen == sorted(seen)
