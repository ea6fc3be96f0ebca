"""What a GPU or a TPU is given: programs that lower for it, and one dispatch an epoch.

No accelerator is needed: a program is lowered for another platform than that it is traced on.
"""

import itertools
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jaxlib.mlir import ir

from autogrow_jax import config as config_lib
from autogrow_jax.build import load_data
from autogrow_jax.data import Preprocessing
from autogrow_jax.errors import UserError
from autogrow_jax.models import build_network
from autogrow_jax.optim import make_optimizer
from autogrow_jax.steps import programs as programs_lib
from autogrow_jax.steps.programs import describe
from autogrow_jax.steps.state import init_state, make_mesh
from autogrow_jax.steps.step import Recipe, Sums, make_evaluate, make_train_steps
from autogrow_jax.steps.trainer import Trainer

_IMAGE_SHAPE = (16, 16, 3)
_BATCH, _IMAGES = 8, 24


@pytest.fixture(autouse=True, scope="module")
def traced_once():
    """What JAX does is looked at here."""


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


@pytest.mark.parametrize(
    ("family", "dtype", "exact"),
    [
        ("plain3", "float32", False),
        ("basic3", "bfloat16", True),
        *(
            pytest.param(*kind, marks=pytest.mark.slow)
            for kind in itertools.product(
                ("plain3", "basic3"), ("float32", "bfloat16"), (False, True)
            )
            if kind not in (("plain3", "float32", False), ("basic3", "bfloat16", True))
        ),
    ],
)
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


def _find_loops(module):
    """The bound of each loop of a module, None where it is not known; and other ops by name."""
    loops, others = [], set()

    def visit(operation):
        if operation.name != "stablehlo.while":
            others.add(operation.name)
            return ir.WalkResult.ADVANCE
        *_, end = operation.regions[0].blocks[0].operations
        compared = end.operands[0].owner
        assert compared.name == "stablehlo.compare"
        bound = compared.operands[1].owner
        is_known = getattr(bound, "name", "") == "stablehlo.constant"
        value = bound.attributes["value"] if is_known else None
        loops.append(ir.DenseIntElementsAttr(value)[0] if is_known else None)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return loops, others


@pytest.fixture
def lowered(monkeypatch):
    """Modules of a run's training and validation, as they would be for a platform."""

    def make(platform, backend, **changes):
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        trainer = _make_trainer(**changes)
        asked = []
        monkeypatch.setattr(
            trainer.programs, "compile_ahead", lambda *given, **_: asked.append(given)
        )
        trainer.compile_ahead(grows=False)
        modules = [
            jax.jit(function)
            .trace(*describe(args))
            .lower(lowering_platforms=(platform,))
            .compiler_ir("stablehlo")
            for function, *args in asked
        ]
        assert len(modules) == 2
        return trainer, modules

    return make


@pytest.mark.parametrize("family", ["plain3", "basic3"])
@pytest.mark.parametrize(
    ("platform", "backend", "programs"), [("cuda", "gpu", "auto"), ("tpu", "tpu", "exact")]
)
def test_every_loop_has_a_known_length_and_nothing_waits_for_the_host(
    lowered, platform, backend, programs, family
):
    changes = {"growth.programs": programs, "model.family": family, "model.depths": (3, 2, 4)}
    trainer, modules = lowered(platform, backend, **changes)
    for module, length in zip(modules, (trainer.steps_per_epoch, 1), strict=True):
        loops, others = _find_loops(module)
        assert None not in loops
        # The steps of an epoch, or the batches of an evaluation; blocks but the first of a stage.
        assert {length, 1, 2, 3} <= set(loops)
        assert not others & {"stablehlo.case", "stablehlo.if", "stablehlo.infeed"}
        assert "callback" not in str(module)


def test_a_program_for_all_depths_has_loops_of_unknown_length(lowered):
    _, modules = lowered("cuda", "gpu", **{"growth.programs": "shared"})
    assert all(None in _find_loops(module)[0] for module in modules)


@pytest.mark.parametrize(
    ("backend", "kind", "changes", "is_exact"),
    [
        ("cpu", "cpu", {}, False),
        ("tpu", "TPU v5", {}, False),
        ("gpu", "NVIDIA H100 80GB HBM3", {}, True),
        ("gpu", "NVIDIA H100 80GB HBM3", {"growth.programs": "shared"}, False),
        ("gpu", "known better", {}, False),
        ("cpu", "cpu", {"growth.programs": "exact"}, True),
        ("cpu", "cpu", {"growth.capacity": 0}, True),
    ],
)
def test_the_device_decides_unless_the_settings_do(monkeypatch, backend, kind, changes, is_exact):
    monkeypatch.setitem(programs_lib._FASTEST, "known better", programs_lib.SHARED)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    device = SimpleNamespace(device_kind=kind)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    monkeypatch.setattr(programs_lib.os, "cpu_count", lambda: 16)
    growth = config_lib.resolve({"growth": _nest(changes)}).growth
    assert (programs_lib.choose_programs(growth) == programs_lib.EXACT) == is_exact
    # On a CPU the compiler takes cores from the training.
    assert programs_lib.choose_threads(growth) == (4 if is_exact and backend != "cpu" else 1)


def test_a_shared_program_needs_room():
    with pytest.raises(UserError, match=r"growth\.capacity is 0.*'shared'; give a capacity"):
        config_lib.resolve({"growth": {"programs": "shared", "capacity": 0}})


def _nest(changes):
    return {name.removeprefix("growth."): value for name, value in changes.items()}


def _make_trainer(**changes):
    config = config_lib.default_config()
    config.update_from_flattened_dict(
        {"data.fraction": 0.2, "data.batch_size": 32, "num_devices": 1, **changes}
    )
    resolved = config_lib.resolve(config)
    return Trainer(resolved, load_data(resolved))


@pytest.fixture
def dispatches(monkeypatch):
    """Kinds of the programs called, in order."""
    called = []

    def make(**changes):
        trainer = _make_trainer(**changes)
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


def test_where_lengths_are_known_it_is_one_with_a_progress_bar_too(dispatches):
    trainer, called = dispatches(**{"growth.programs": "exact"})
    seen = []
    sums = trainer.train_epoch(0, 0.01, lambda steps, images: seen.append((steps, images)))
    steps = trainer.steps_per_epoch
    assert int(np.asarray(sums.examples)) == 32 * steps
    validated = trainer.evaluate("validation")
    assert int(np.asarray(validated.examples)) == len(trainer.dataset.validation.labels)
    assert called == ["train", "evaluate"] and seen == [(steps, 32 * steps)]


def test_where_lengths_are_known_an_epoch_that_takes_long_is_cut_beforehand(
    dispatches, monkeypatch
):
    """Into pieces of one length, for one program, between which a run can be stopped."""
    monkeypatch.setattr("autogrow_jax.steps.feed._FEW_PIXELS", 0)
    trainer, called = dispatches(**{"growth.programs": "exact"})
    seconds = programs_lib.most_seconds(trainer.network, (8, 8, 1), 32 * trainer.steps_per_epoch)
    assert 0 < seconds < 60
    monkeypatch.setattr("autogrow_jax.steps.feed._MOST_SECONDS", seconds / 3)
    looks = []
    trainer.look = lambda: looks.append(trainer.begun.steps)
    sums = trainer.train_epoch(0, 0.01, None)
    assert int(sums.examples) == 32 * trainer.steps_per_epoch
    assert looks == sorted(looks) and looks[-1] == trainer.steps_per_epoch
    assert 3 <= len(looks) == called.count("train") < 6
    assert trainer.programs.counts["train"] == 1 + (looks[-1] % looks[0] > 0)


def test_a_program_of_known_length_evaluates_every_part(dispatches):
    trainer, called = dispatches(**{"growth.programs": "exact"})
    shared, _ = dispatches(**{"growth.programs": "shared"})
    called.clear()
    found, expected = trainer.evaluate("test"), shared.evaluate("test")
    # The test set is larger than what validation takes, so it takes several calls of one program.
    assert len(called) > 2 and trainer.programs.counts["evaluate"] == 1
    assert int(found.examples) == len(trainer.dataset.test.labels) == int(expected.examples)
    np.testing.assert_array_equal(found.by_class, expected.by_class)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)


def test_with_a_progress_bar_an_epoch_is_a_few(dispatches, monkeypatch):
    # However fast the steps are, each dispatch is twice as long as the one before.
    monkeypatch.setattr("autogrow_jax.steps.feed.SECONDS_PER_DISPATCH", 1e9)
    trainer, called = dispatches(**{"data.batch_size": 4})
    seen = []
    trainer.train_epoch(0, 0.01, lambda steps, images: seen.append(steps))
    steps = trainer.steps_per_epoch
    assert len(called) <= np.ceil(np.log2(steps)) + 2 < steps / 4
    assert seen == sorted(seen)


@pytest.mark.slow
def test_a_net_trained_in_parts_of_batches_is_that_of_whole_batches():
    changes = {
        "model.family": "plain3_nobn",
        "model.depths": (2, 1, 1),
        "data.augment": "crop_flip",
    }
    trainers = [_make_trainer(gradient_accumulation=parts, **changes) for parts in (1, 4)]
    losses = []
    for trainer in trainers:
        trainer.start()
        sums = trainer.train_epoch(0, 0.01, None)
        losses.append(float(sums.loss))
    np.testing.assert_allclose(*losses, rtol=1e-4)
    whole, parts = (jax.tree.leaves(trainer.exact_variables()) for trainer in trainers)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
