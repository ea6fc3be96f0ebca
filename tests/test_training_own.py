"""A run on what is the user's own: arrays, loss, augmentation, optimiser, schedule, policy."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stand_ins import StopAt, Told, tiny_config

from autogrow_jax import optim
from autogrow_jax.build import resolve
from autogrow_jax.data import AUGMENTATIONS, Dataset, register_augmentation
from autogrow_jax.errors import UserError
from autogrow_jax.growth import INITIALIZERS, periodic, register_initializer
from autogrow_jax.optim import LOSSES
from autogrow_jax.own import Own
from autogrow_jax.reporting import QuietReporter
from autogrow_jax.reporting.metrics import read
from autogrow_jax.training import load, run


def _arrays(count=192):
    """Bars, upright or level: what a net can learn in a few steps."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = rng.integers(0, 80, (count, 8, 8, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        place = rng.integers(8)
        image[(slice(None), place) if label else place] = 255
    return images, labels


def smooth_loss(logits, labels):
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(jax.nn.one_hot(labels, 2), 0.1))


def darken(key, images):
    return images.astype(jnp.float32) * jax.random.uniform(key, (len(images), 1, 1, 1), minval=0.5)


def clipped_lion(learning_rate):
    return optax.chain(optax.clip_by_global_norm(1.0), optax.lion(learning_rate))


def falling(phase, epoch, epochs):
    return 1e-3 if phase == "growth" else 1e-3 / (1 + epoch)


def _own():
    return {
        "dataset": Dataset.from_arrays(*_arrays(), class_names=("level", "upright"), name="bars"),
        "loss": smooth_loss,
        "augment": darken,
        "optimizer": clipped_lion,
        "schedule": falling,
        "policy": periodic(seed_depths=(1, 1, 1), interval=1, max_growth_epochs=3),
    }


def _config(**changes):
    own = {
        "data.fraction": 1.0,
        "growth.interval": 3,
        "growth.max_epochs": 3,
        "finetune.epochs": 2,
        "log.tensorboard": True,
    }
    return tiny_config(**own | changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir, listener = tmp_path_factory.mktemp("own"), Told()
    result = run(_config(), workdir, reporter=listener, **_own())
    return workdir, result, listener.messages


def test_a_run_takes_what_is_the_users_own_and_says_so(finished):
    workdir, result, messages = finished
    config = json.loads((workdir / "config.json").read_text())
    assert config["data"]["name"] == config["loss"] == config["data"]["augment"] == "own"
    assert config["optimizer"]["name"] == config["finetune"]["schedule"] == "own"
    assert config["growth"]["policy"] == "own"
    # What an optimiser of one's own does not take is not said to have been used.
    assert config["optimizer"]["weight_decay"] == config["optimizer"]["momentum"] == 0
    own = json.loads((workdir / "result.json").read_text())["own"]
    assert own["dataset"] == result.dataset == "bars"
    assert own["loss"].endswith(".smooth_loss")
    assert own["optimizer"].endswith(".clipped_lion")
    assert own["policy"] == "periodic"
    assert any("given as objects: dataset (bars), loss (" in line for line in messages)
    rates = [line["learning_rate"] for line in read(workdir / "metrics.jsonl")]
    assert rates == [1e-3, 1e-3, 1e-3, 1e-3, 5e-4]
    assert result.depths == (2, 2, 2)
    assert result.test_accuracy > 90


def test_the_loss_of_ones_own_is_the_one_that_is_measured(finished):
    workdir, result, _ = finished
    dataset = _own()["dataset"]
    probabilities = load(workdir).predict(dataset.test.images)
    losses = smooth_loss(jnp.log(probabilities), dataset.test.labels)
    assert result.more["test_loss"] == pytest.approx(float(losses.mean()), rel=1e-4)


def test_a_start_that_resumes_is_given_the_objects_again(finished, tmp_path):
    _, result, _ = finished
    with pytest.raises(KeyboardInterrupt):
        run(_config(), tmp_path, reporter=StopAt(4), **_own())
    for lacking in ("dataset", "loss", "augment", "optimizer", "schedule", "policy"):
        given = _own()
        del given[lacking]
        with pytest.raises(UserError, match=f"give it again, run.*{lacking}=") as error:
            run(_config(), tmp_path, **given)
        assert "'own' ->" in str(error.value)
    resumed = run(_config(), tmp_path, reporter=QuietReporter(), **_own())
    assert resumed.test_accuracy == result.test_accuracy
    for one, other in zip(
        jax.tree.leaves(resumed.variables), jax.tree.leaves(result.variables), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_start_that_is_given_other_objects_says_so(finished, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(_config(), tmp_path, reporter=StopAt(4), **_own())
    listener = Told()
    other = {
        "loss": LOSSES["cross_entropy"],
        "optimizer": optax.inject_hyperparams(optax.lion)(1e-3),
    }
    with pytest.raises(UserError):  # The state is of another optimiser.
        run(_config(), tmp_path, reporter=listener, **(_own() | other))
    run(_config(), tmp_path, reporter=listener, **(_own() | {"loss": other["loss"]}))
    (told,) = (text for text in listener.messages if "when the run began" in text)
    assert told.startswith("loss was test_training_own.smooth_loss when the run began and is ")


def test_a_finished_run_is_evaluated_with_the_objects_that_matter(finished):
    workdir, result, _ = finished
    own = _own()
    config = _config(mode="evaluate")
    given = {name: own[name] for name in ("dataset", "loss")}
    again = run(config, workdir, reporter=QuietReporter(), **given)
    assert again.test_accuracy == result.test_accuracy
    assert again.more["test_loss"] == pytest.approx(result.more["test_loss"])
    with pytest.raises(UserError, match=r"it was given as an object.*dataset="):
        run(config, workdir, reporter=QuietReporter(), loss=smooth_loss)
    images, labels = _arrays(40)
    turned = Dataset.from_arrays(images, 1 - labels, class_names=("upright", "level"))
    listener = Told()
    other = run(config, workdir, reporter=listener, dataset=turned, loss=smooth_loss)
    assert other.test_accuracy > 80  # Matched by name.
    assert any("other order than the net's" in line for line in listener.messages)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"loss": lambda logits, labels: jnp.mean(logits)}, r"the loss gives float32 \[\]"),
        (
            {"augment": lambda key, images: images[:, 1:]},
            r"the augmentation gives uint8 \[32, 7, 8, 1\]",
        ),
        ({"schedule": lambda phase, epoch, epochs: -0.1}, "the schedule gives -0.1 for epoch 0"),
        ({"policy": periodic(seed_depths=(1, 1), max_depths=(9, 9))}, "model.depths is"),
        # Its steps were of the rate 1 whatever the schedule said.
        (
            {"optimizer": optax.inject_hyperparams(optax.sgd)},
            "keeps the learning rate in its state",
        ),
        # New blocks were given the momentum of other arrays.
        ({"optimizer": optax.flatten(optax.sgd(0.1, 0.9))}, "is not an entry a block"),
        ({"optimizer": optax.sm3(0.1)}, r"of nets of 2 and 3 blocks .* \[16\] and \[16\]"),
        ({"optimizer": optax.adafactor(0.1)}, "is not an entry a block"),
    ],
)
def test_objects_that_do_not_do_are_refused(own, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(_config(), tmp_path, reporter=QuietReporter(), **(_own() | own))


@pytest.mark.parametrize(
    ("changes", "own", "message"),
    [
        ({"optimizer.weight_decay": 0.1}, {"optimizer": clipped_lion}, "say it there, as optax"),
        ({"data.flip": "yes"}, {"augment": darken}, "takes its place; leave the key out"),
        ({"data.fraction": 0.5}, {"dataset": 0}, "from_arrays.*fraction="),
        ({"data.validation": "test"}, {"dataset": 0}, "from_arrays.*validation="),
        ({"model.depths": (2, 1, 1)}, {"policy": periodic()}, "the policy starts at"),
        ({"loss": "own"}, {}, r"config\.loss is 'own'; .*run\(config, workdir, loss=\.\.\.\)"),
    ],
)
def test_keys_that_contradict_an_object_are_refused(changes, own, message):
    if "dataset" in own:
        own = {"dataset": Dataset.from_arrays(*_arrays(40))}
    with pytest.raises(UserError, match=message):
        resolve(_config(**changes), Own(**own))


def test_an_optimiser_with_its_own_rate_steps_by_it_and_falls_with_the_schedule():
    params = {"w": jnp.array([1.0, -2.0])}
    grads = {"w": jnp.array([0.5, 0.25])}
    adamw = optax.adamw(0.01, weight_decay=0.1)
    steps = optim.as_they_are(adamw, base_rate=0.1)
    for rate, factor in ((0.1, 1), (0.01, 0.1)):
        with jax.numpy_dtype_promotion("standard"):  # Optax's Adam raises to a whole power.
            expected, _ = adamw.update(grads, adamw.init(params), params)
            updates, _ = steps(rate).update(grads, steps(rate).init(params), params)
        np.testing.assert_allclose(updates["w"], factor * expected["w"], rtol=1e-6)


def test_what_is_registered_has_a_name_in_the_config(tmp_path):
    registries = optim.LOSSES, optim.OPTIMIZERS, optim.SCHEDULES, AUGMENTATIONS
    before = [set(registry) for registry in registries]
    try:
        optim.register_loss("smooth", smooth_loss)
        optim.register_optimizer("clipped_lion", clipped_lion)
        optim.register_schedule("falling", lambda base_rate: falling)
        register_augmentation("darken", darken)
        with pytest.raises(UserError, match="there is a loss 'smooth' already"):
            optim.register_loss("smooth", smooth_loss)
        own = _own()
        changes = {
            "loss": "smooth",
            "optimizer.name": "clipped_lion",
            "finetune.schedule": "falling",
            "data.augment": "darken",
            "growth.interval": 1,
        }
        result = run(_config(**changes), tmp_path, reporter=QuietReporter(), dataset=own["dataset"])
        config = json.loads((tmp_path / "config.json").read_text())
        assert (config["loss"], config["optimizer"]["name"]) == ("smooth", "clipped_lion")
        assert config["optimizer"]["weight_decay"] == 0
        assert result.more["own"] == {"dataset": "bars"}
        rates = [line["learning_rate"] for line in read(tmp_path / "metrics.jsonl")]
        assert rates[-2:] == [1e-3, 5e-4]
    finally:
        for registry, names in zip(registries, before, strict=True):
            for name in registry.keys() - names:
                del registry[name]


def test_an_initialiser_that_asks_for_the_loss_gets_the_runs_own(tmp_path):
    seen = []

    def ten(logits, labels):
        return 10.0 + 0.0 * smooth_loss(logits, labels)

    def look(key, block, context):
        jax.debug.callback(lambda loss: seen.append(float(loss)), context.loss(block)[0])
        return block

    register_initializer("look", look, needs_labels=True)
    try:
        config = _config(**{"growth.initializer": "look", "growth.interval": 1})
        own = {"dataset": _own()["dataset"], "loss": ten}
        run(config, tmp_path, reporter=QuietReporter(), **own)
    finally:
        del INITIALIZERS["look"]
    assert seen
    assert set(seen) == {10.0}
