"""Every key is checked, changes something, and survives being written and read."""

import dataclasses
import itertools
import json
import math
import tempfile
from pathlib import Path

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from PIL import Image

from autogrow_jax import optim
from autogrow_jax.build import load_data, make_schedule
from autogrow_jax.config import (
    default_config,
    flatten,
    make_network,
    make_policy,
    nest,
    resolve,
)
from autogrow_jax.errors import UserError
from autogrow_jax.growth import POLICIES, convergent, replay
from autogrow_jax.growth.initializers import INITIALIZERS, register_initializer
from autogrow_jax.models import FAMILIES, get_family, register_family
from autogrow_jax.own import Own
from autogrow_jax.reporting.workdir import to_json
from autogrow_jax.settings import FREE_KEYS, KEYS, differences
from autogrow_jax.steps.trainer import Trainer
from autogrow_jax.training import make_optimizer


def _resolve(**changes):
    return resolve(nest(changes))


# --- What is accepted.

ACCEPTED = [
    ("seed", 2**32 - 1, 2**32 - 1),
    ("seed", np.int64(3), 3),
    ("model.depths", (2, 1, 1), (2, 1, 1)),
    ("model.depths", [2, 1, 1], (2, 1, 1)),
    ("model.depths", np.array([2, 1, 1]), (2, 1, 1)),
    ("model.depths", (), (1, 1, 1)),
    ("growth.max_depths", 20, (20, 20, 20)),
    ("growth.max_depths", (20,), (20, 20, 20)),
    ("growth.max_depths", (), (200, 200, 200)),
    ("optimizer.learning_rate", 1, 1.0),
    ("optimizer.learning_rate", None, 0.01),
    ("optimizer.learning_rate", np.float32(0.5), 0.5),
    ("optimizer.ema", 0, 0.0),
    ("data.validation", 0.2, "0.2"),
    ("data.validation", "0.2", "0.2"),
    ("data.validation", "test", "test"),
    ("data.crop_padding", -1, -1),
    ("finetune.epochs", 0, 0),
]


@pytest.mark.parametrize("name, value, wanted", ACCEPTED)
def test_accepted_values_take_one_form(name, value, wanted):
    found = flatten(_resolve(**{name: value}))[name]
    assert found == wanted
    assert type(found) is type(wanted)


REFUSED = [
    ("mode", "grew", "did you mean 'grow'"),
    ("mode", ["grow"], "Known: grow"),
    ("seed", -1, "from 0 to 4294967295"),
    ("seed", 2**32, "from 0 to 4294967295"),
    ("seed", True, "whole number"),
    ("parallel", "none", "Known: jit, pmap"),
    ("num_devices", -1, "0 means all"),
    ("model.family", "plan3", "did you mean 'plain3'"),
    ("model.depths", (2, 1), "plain3 has 3 stages, so give 3 numbers, such as"),
    ("model.depths", (2, 1, 0), "at least 1"),
    ("model.depths", (2, 1, 1.5), "whole numbers"),
    ("model.depths", "2,1,1", "whole numbers"),
    ("model.dtype", "float16", "Known: float32, bfloat16"),
    ("model.stem", "big", "Known: small, imagenet"),
    ("model.bn_scale_init", "one", "did you mean 'ones'"),
    ("model.kernel_init", 3, "Known: torch"),
    ("model.remat", "yes", "True or False"),
    ("data.name", 3, "digits, mnist"),
    ("data.dir", None, "folder"),
    ("data.batch_size", 0, "at least 1"),
    ("data.batch_size", "ten", "'ten'; it takes a whole number of images"),
    ("data.fraction", 0.0, "above 0 and up to 1"),
    ("data.fraction", 1.5, "above 0 and up to 1"),
    ("data.fraction", float("nan"), "above 0 and up to 1"),
    ("data.validation", "tset", "'held-out', 'test'"),
    ("data.validation", 1.5, "'held-out', 'test'"),
    ("data.validation", True, "'held-out', 'test'"),
    ("data.validation_fraction", 1.0, "between 0 and 1"),
    ("data.image_size", -1, "0 means as it is"),
    ("data.crop_padding", -2, "the set's own"),
    ("data.layout", "class", "did you mean 'classes'"),
    ("data.background", "#fff", "as #rrggbb"),
    ("data.flip", True, "Known: auto, yes, no"),
    ("growth.policy", "periodical", "did you mean 'periodic'"),
    ("growth.interval", 0, "at least 1"),
    ("growth.window", 2.0, "whole number of epochs"),
    ("growth.threshold", -0.1, "at least 0"),
    ("growth.noise", -1.0, "in standard errors"),
    ("growth.max_gap", -1.0, "in percentage points"),
    ("growth.price", -0.5, "for a doubling of FLOPs"),
    ("growth.metric", "mean", "Known: max, avg"),
    ("growth.mode", "groups", "did you mean 'group'"),
    ("growth.mode", "sub", "needs sub"),
    ("growth.sub", (1, 1, 1), "mode='sub' only"),
    ("growth.max_depths", (9, 9), "plain3 has 3 stages"),
    ("growth.max_epochs", 0, "at least 1"),
    ("growth.max_params", -1, "of parameters, at least 0; 0 is no limit"),
    ("growth.max_flops", "1G", "of FLOPs for one image"),
    ("growth.max_seconds", -1, "of seconds"),
    ("growth.max_latency", float("nan"), "of milliseconds for one image"),
    ("growth.initializer", "gausian", "did you mean 'gaussian'"),
    ("optimizer.name", "sdg", "did you mean 'sgd'"),
    ("optimizer.learning_rate", 0.0, "above 0"),
    ("optimizer.learning_rate", float("inf"), "above 0"),
    ("optimizer.momentum", 1.0, "below 1"),
    ("optimizer.weight_decay", -1e-4, "at least 0"),
    ("optimizer.ema", 1.0, "below 1"),
    ("finetune.epochs", -1, "at least 0"),
    ("finetune.schedule", "step", "staircase"),
    ("checkpoint.every", 0, "at least 1"),
    ("checkpoint.keep", 0, "at least 1"),
    ("snapshots.every", -1, "0 means none"),
    ("log.progress", 1, "True or False"),
    ("log.plot_every", -1, "0 means at the end only"),
]


@pytest.mark.parametrize("name, value, message", REFUSED)
def test_refused_values_name_the_key_and_what_it_accepts(name, value, message):
    with pytest.raises(UserError) as error:
        _resolve(**{name: value})
    assert message in str(error.value)
    assert f"config.{name.split('.')[0]}" in str(error.value)


def test_seed_deeper_than_the_maximum():
    with pytest.raises(UserError, match=r"config\.model\.depths is \(9, 1, 1\).*stage 0.*\(5, 5"):
        _resolve(**{"model.depths": (9, 1, 1), "growth.max_depths": 5})
    # The maximum is of growth; from scratch there is none.
    _resolve(**{"mode": "scratch", "model.depths": (9, 1, 1), "growth.max_depths": 5})


def test_scratch_of_no_epochs():
    with pytest.raises(UserError, match=r"config\.finetune\.epochs is 0"):
        _resolve(**{"mode": "scratch", "finetune.epochs": 0})


def test_growth_leaves_the_fine_tuning_its_epochs_of_the_total():
    resolved = _resolve(**{"finetune.total_epochs": 30, "finetune.epochs": 8})
    assert resolved.growth.max_epochs == 22
    assert resolved.finetune.length(phase_start=12) == 18
    with pytest.raises(UserError, match=r"config\.finetune\.total_epochs is 8, of which.*takes 8"):
        _resolve(**{"finetune.total_epochs": 8, "finetune.epochs": 8})
    # An interval of 3 that 22 epochs end within does not take any of fine-tuning's.
    for name in POLICIES:
        values = {"finetune.total_epochs": 30, "finetune.epochs": 8, "growth.policy": name}
        policy = make_policy(_resolve(**values), (8, 8, 1), 10)
        measurements = itertools.repeat({"train_accuracy": 50.0}, 30)
        assert replay(policy, range(1, 31), measurements=[*measurements]).growth_epochs == 22
    scratch = _resolve(**{"mode": "scratch", "finetune.total_epochs": 30, "finetune.epochs": 0})
    assert scratch.finetune.length(phase_start=0) == 30


@pytest.mark.parametrize(
    "name, message",
    [
        ("model.depth", "did you mean 'model.depths'"),
        ("batch_size", "did you mean 'data.batch_size'"),
        ("modle.depths", "did you mean 'model.depths'"),
        ("xyzzy", "Known: checkpoint, compilation_cache, data"),
        ("model.xyzzy", "'model' has: model.family"),
        ("data", "config.data is a group of keys: data.name"),
    ],
)
def test_unknown_keys_name_the_nearest(name, message):
    with pytest.raises(UserError) as error:
        _resolve(**{name: 1})
    assert message in str(error.value)


@pytest.mark.parametrize("config", [None, 3, "digits", [("seed", 1)]])
def test_what_is_no_config(config):
    with pytest.raises(UserError, match="default_config"):
        resolve(config)


def test_default_config_is_locked():
    config = default_config()
    with pytest.raises(AttributeError):
        config.data.batchsize = 3


def test_what_is_registered_later_is_accepted():
    try:
        register_family("mine2", get_family("plain3")._replace(widths=(8, 16)))
        register_initializer("mine", INITIALIZERS["default"].start)
        config = _resolve(**{"model.family": "mine2", "growth.initializer": "mine"})
        assert config.model.depths == (1, 1)
        with pytest.raises(UserError, match="mine2"):
            _resolve(**{"model.family": "mine3"})
    finally:
        FAMILIES.pop("mine2", None)
        INITIALIZERS.pop("mine", None)


# --- One form, kept.


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_resolving_twice_changes_nothing(family):
    once = _resolve(**{"model.family": family, "growth.max_depths": 20, "data.validation": 0.25})
    assert resolve(once).to_dict() == once.to_dict()
    assert flatten(once).keys() == KEYS.keys()


def test_all_forms_of_a_config_resolve_alike():
    changed = default_config()
    changed.model.depths = (3, 2, 1)
    frozen = ml_collections.FrozenConfigDict(changed)
    for config in (changed, frozen, changed.to_dict(), {"model": {"depths": [3, 2, 1]}}):
        assert resolve(config).to_dict() == resolve(changed).to_dict()


@pytest.mark.parametrize("family", ["plain3", "basic4"])
def test_config_file_round_trip(family):
    config = _resolve(**{"model.family": family, "growth.mode": "rate"})
    read = json.loads(to_json(config.to_dict()))
    assert differences(read, config) == []
    assert resolve(read).to_dict() == config.to_dict()


@pytest.mark.parametrize("name", sorted(KEYS))
def test_differences_are_of_keys_that_matter(name):
    old = flatten(resolve(default_config()))
    lines = differences(nest(old), nest(old | {name: "changed"}))
    assert lines == ([] if name in FREE_KEYS else [f"{name}: {old[name]!r} -> 'changed'"])


def test_a_key_younger_than_the_run_had_its_default():
    config = resolve(default_config())
    old = flatten(config)
    del old["optimizer.ema"]
    assert differences(nest(old), config) == []
    assert differences(nest(old), nest(flatten(config) | {"optimizer.ema": 0.9}))


def test_a_run_older_than_perturbing_goes_on_without():
    config = resolve(default_config())
    old = flatten(config)
    del old["finetune.perturb"]
    assert differences(nest(old), config) == ["finetune.perturb: 0.0 -> None"]
    assert differences(nest(old), nest(flatten(config) | {"finetune.perturb": 0.0})) == []


@pytest.mark.parametrize(
    "changes, share",
    [
        ({}, 0.5),  # Of 30 epochs after 30.
        ({"finetune.epochs": 29}, 0),  # Too few to learn again what is lost.
        ({"finetune.epochs": 29, "finetune.perturb": 0.3}, 0.3),
        ({"finetune.total_epochs": 60, "finetune.epochs": 1}, 0.5),
        ({"finetune.total_epochs": 59, "finetune.epochs": 1}, 0),
        ({"init_from": "somewhere"}, 0),
        ({"init_from": "somewhere", "finetune.perturb": 0.3}, 0.3),
        ({"finetune.epochs": 0, "finetune.perturb": 0.3}, 0),  # None comes that would do it.
        ({"mode": "scratch"}, 0),
        ({"growth.policy": "convergent"}, 0),  # Falls at once, tenfold.
        ({"growth.policy": "convergent", "finetune.schedule": "cosine"}, 0.5),
        ({"finetune.schedule": "convergent"}, 0),
        ({"finetune.schedule": "convergent", "finetune.perturb": 0.3}, 0.3),
        ({"finetune.schedule": "thirds"}, 0.5),
    ],
)
def test_weights_are_perturbed_where_fine_tuning_can_make_up_for_it(changes, share):
    settings = _resolve(**{"finetune.epochs": 30} | changes)
    schedule = make_schedule(settings, make_policy(settings, (8, 8, 1), 10, 100))
    assert settings.finetune.share(30, schedule) == share


@pytest.mark.parametrize(
    "rates, share",
    [
        (lambda phase, epoch, epochs: 0.1 if phase == "growth" else 0.01, 0),
        (lambda phase, epoch, epochs: 0.001, 0.5),  # The config says ten times as much.
        (lambda phase, epoch, epochs: 0.1 if phase == "growth" else 0.01 * epoch, 0.5),
        (lambda phase, epoch, epochs: 0.1 / 2**epoch, 0.5),  # Begins again where growth began.
    ],
)
def test_schedules_of_ones_own_say_whether_it_can_by_their_rates(rates, share):
    assert _resolve(**{"finetune.epochs": 30}).finetune.share(30, rates) == share


def test_a_policy_of_ones_own_says_it_by_its_schedule():
    policy = convergent(interval=8)
    settings = resolve(default_config(), Own(policy=policy))
    assert settings.finetune.share(30, make_schedule(settings, policy)) == 0


def test_a_run_older_than_the_front_had_none():
    config = resolve(default_config())
    old = flatten(config)
    del old["finetune.front"]
    assert differences(nest(old), config) == ["finetune.front: False -> True"]
    assert differences(nest(old), nest(flatten(config) | {"finetune.front": False})) == []


# --- Every key changes something.


def _probe_network(config):
    # What each of its fields does is in test_models_network.py.
    return make_network(config, 10, 3, config.model.depths)


def _probe_data(config):
    data = load_data(config)
    parts = [(split.images.shape, split.labels.tolist()) for split in (data.train, data.validation)]
    return parts, data.preprocessing


def _probe_data_error(config):
    try:
        return load_data(config)
    except UserError as error:
        return str(error)


def _probe_folder(config):
    """Of images that are white where they are transparent; called like parts, they are classes."""
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(("train/a", "train/b", "test/a", "test/b") * 2):
            (Path(folder) / "set" / name).mkdir(parents=True, exist_ok=True)
            pixels = np.full((4, 4, 4), 10 * i, np.uint8)
            Image.fromarray(pixels).save(Path(folder) / "set" / name / f"{i}.png")
        config = dataclasses.replace(
            config,
            data=dataclasses.replace(
                config.data, name=f"folder:{folder}/set", cache_dir=f"{folder}/cache", batch_size=1
            ),
        )
        data = load_data(config)
        return data.class_names, data.train.images.min()


def _probe_policy(config):
    rng = np.random.default_rng(0)
    curve = 90 * (1 - np.exp(-np.arange(200) / 20)) + rng.normal(size=200)
    events = replay(make_policy(config), curve)
    return events.growth, events.depths, events.growth_epochs


def _probe_measured_policy(config):
    """What the policy decides on the way, where it is told what training measures."""
    policy = make_policy(config, image_shape=(8, 8, 1), num_classes=10, images=100)
    state, decisions = policy.init(), []
    for epoch in range(60):
        accuracy = 80 * (1 - math.exp(-epoch / 10))
        measurements = {
            "train_accuracy": accuracy + epoch / 4,
            "seconds": 2.0 * epoch,
            "latency": 0.001 * sum(policy.seed_depths if not decisions else decisions[-1].depths),
        }
        state, decision = policy.update(state, accuracy, measurements=measurements)
        decisions.append(decision)
    return decisions


def _probe_optimizer(config):
    chosen = config.optimizer
    optimizer = make_optimizer(
        chosen.name,
        momentum=chosen.momentum,
        nesterov=chosen.nesterov,
        weight_decay=chosen.weight_decay,
    )
    params = jnp.float32(2.0)
    state = optimizer.init(params)
    updates = []
    for gradient in (1.0, 0.5):
        update, state = optimizer.update(jnp.float32(gradient), state, params)
        updates.append(float(update))
    return updates


def _probe_schedule(config):
    base, epochs = config.optimizer.learning_rate, config.finetune.length(phase_start=10)
    schedule = optim.make_schedule(config.finetune.schedule, base, config.growth.policy)
    return [schedule("finetune", epoch, epochs) for epoch in range(epochs)]


def _probe_trainer(config):
    trainer = Trainer(config, load_data(config))
    mesh = trainer._recipe.mesh
    ema = bool(trainer.abstract_state(trainer.depths).ema)
    feed = type(trainer._feed).__name__
    recipe = trainer._recipe
    how = recipe.parallel, recipe.exact, trainer.capacities
    return trainer.steps_per_epoch, mesh.size, feed, ema, how


PROBES = {
    _probe_network: {
        "model.family": "basic3",
        "model.depths": (2, 1, 1),
        "model.dtype": "bfloat16",
        "model.stem": "imagenet",
        "model.bn_scale_init": "uniform",
        "model.kernel_init": "he",
        "model.remat": True,
        "model.convolution": "native",
    },
    _probe_data: {
        "seed": 1,
        "data.fraction": 0.5,
        "data.validation": "test",
        "data.validation_fraction": 0.3,
        "data.image_size": 12,
        "data.crop_padding": 2,
        "data.flip": "yes",
    },
    _probe_data_error: {"data.name": "nonsense", "data.dir": "elsewhere", "data.batch_size": 10**6},
    _probe_folder: {"data.layout": "classes", "data.background": "black"},
    _probe_policy: {
        "growth.policy": "convergent",
        "growth.interval": 5,
        "growth.window": 20,
        "growth.threshold": 5.0,
        "growth.metric": "avg",
        "growth.mode": "all",
        "growth.sub": (2, 0, 1),
        "growth.rate": 0.8,
        "growth.max_depths": 5,
        "growth.max_epochs": 9,
    },
    _probe_measured_policy: {
        "growth.noise": 3.0,
        "growth.max_gap": 12.0,
        "growth.price": 20.0,
        "growth.max_params": 60_000,
        "growth.max_flops": 2e6,
        "growth.max_seconds": 30,
        "growth.max_latency": 6.5,
    },
    _probe_optimizer: {
        "optimizer.name": "rmsprop",
        "optimizer.momentum": 0.5,
        "optimizer.nesterov": True,
        "optimizer.weight_decay": 0.1,
    },
    _probe_schedule: {
        "optimizer.learning_rate": 0.3,
        "finetune.epochs": 8,
        "finetune.total_epochs": 30,
        "finetune.schedule": "cosine",
    },
    _probe_trainer: {
        "num_devices": 1,
        "parallel": "pmap",
        "data.on_device": "no",
        "optimizer.ema": 0.9,
        "growth.capacity": 8,
        "growth.programs": "exact",
    },
}
# What a change of a key is compared with, where that is not the default.
BASE = {
    "growth.sub": {"growth.mode": "sub", "growth.sub": (1, 1, 1)},
    "growth.rate": {"growth.mode": "rate", "growth.rate": 0.3},
    "growth.metric": {"growth.window": 30, "growth.threshold": 1.0},
    "growth.threshold": {"growth.window": 30},
    "growth.noise": {"growth.window": 10},
    "growth.max_gap": {"growth.policy": "gap", "growth.window": 10, "growth.threshold": 3.0},
    "growth.price": {
        "growth.policy": "efficiency",
        "growth.interval": 3,
        "growth.window": 10,
    },
    "data.dir": {"data.name": "cifar10", "data.dir": "nowhere"},
    "finetune.total_epochs": {"finetune.epochs": 4},
}
# Seen in whole runs only: test_training_run.py, test_main.py, test_growth_grow.py,
# test_training_compile_ahead.py, test_training_compilation_cache.py, test_training_front.py,
# test_training_snapshots.py, test_training_accumulation.py, test_training_divergence.py,
# test_training_inherited.py, test_reporting_tracking.py and test_stream.py.
IN_RUNS = {
    "mode",
    "compilation_cache",
    "deterministic",
    "gradient_accumulation",
    "init_from",
    "loss",
    "on_divergence",
    "checkpoint.minutes",
    "data.augment",
    "data.classes",
    "data.allow_changes",
    "data.cache_dir",
    "data.stream",
    "data.workers",
    "finetune.front",
    "finetune.choose",
    "finetune.max_latency",
    "finetune.perturb",
    "growth.compile_ahead",
    "growth.initializer",
    "growth.reset_optimizer",
    "checkpoint.every",
    "checkpoint.keep",
    "snapshots.every",
    "log.progress",
    "log.tensorboard",
    "log.tracker",
    "log.plot_every",
    "log.report",
}
CASES = [(probe, name, value) for probe, group in PROBES.items() for name, value in group.items()]
MARKS = {"num_devices": pytest.mark.devices(4)}


def test_the_probes_leave_out_no_key():
    assert {name for _, name, _ in CASES} | IN_RUNS == KEYS.keys()


@pytest.mark.parametrize(
    "probe, name, value",
    [pytest.param(*case, marks=MARKS.get(case[1], ()), id=case[1]) for case in CASES],
)
def test_every_key_changes_something(probe, name, value):
    base = BASE.get(name, {})
    assert probe(_resolve(**base)) != probe(_resolve(**base | {name: value}))


def test_what_is_chosen_among_nets_needs_more_than_one():
    for changes in ({"finetune.front": False}, {"finetune.epochs": 0}):
        for key, value in (("finetune.choose", "best"), ("finetune.max_latency", 1.0)):
            with pytest.raises(UserError, match="one net and nothing to choose"):
                resolve(nest(changes | {key: value}))
    resolve(nest({"finetune.epochs": 0}))
    resolve(nest({"finetune.choose": "best"}))


def test_of_millions_of_epochs_not_each_is_asked_for_its_rate():
    asked = []

    def schedule(phase, epoch, length):
        asked.append(epoch)
        return 0.1

    settings = resolve(nest({"finetune.epochs": 10**9}))
    assert settings.finetune.share(20, schedule) == 0.5
    assert len(asked) < 2000
