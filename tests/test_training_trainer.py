"""Epochs, growth and evaluation on the padded state, against plain JAX and against each other."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from autogrow_jax import config as config_lib
from autogrow_jax.build import load_data
from autogrow_jax.data import Split, augment, normalize
from autogrow_jax.errors import UserError
from autogrow_jax.models import FAMILIES, get_family
from autogrow_jax.steps.state import make_state, perturb
from autogrow_jax.steps.step import (
    choose_evaluation_batch_size,
    epoch_order,
    mean_loss,
    percent,
)
from autogrow_jax.steps.trainer import Trainer
from autogrow_jax.trees import stage_of

_TINY = {
    "data.fraction": 0.1,
    "data.batch_size": 32,
    "num_devices": 1,
    "model.depths": (2, 1, 1),
    "log.progress": False,
}


def _make(**changes):
    config = config_lib.default_config()
    config.update_from_flattened_dict({**_TINY, **changes})
    resolved = config_lib.resolve(config)
    dataset = load_data(resolved)
    trainer = Trainer(resolved, dataset)
    trainer.start()
    return trainer, dataset


def _leaves(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _close(a, b, tolerance):
    a, b = _leaves(a), _leaves(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=tolerance, err_msg=name)


def _equal(a, b):
    _close(a, b, 0)


def test_an_epoch_is_what_plain_optax_makes_of_the_same_batches():
    """The padded, looped, donated step against the public network and optax.sgd, step by step."""
    trainer, dataset = _make(**{"data.crop_padding": 1})
    network, state = trainer.network, trainer.exact_state()
    params, stats = state.params, state.batch_stats
    # The paper's L2: added to the gradient, before momentum.
    sgd = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.05, momentum=0.9))
    opt_state = sgd.init(params)

    @jax.jit
    def step(params, stats, opt_state, images, labels):
        def loss_fn(params):
            logits, updated = network.apply(
                {"params": params, "batch_stats": stats}, images, train=True, mutable=True
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updated["batch_stats"]

        (loss, stats_), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state_ = sgd.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), stats_, opt_state_, loss

    order = np.asarray(epoch_order(trainer.key("order", 3), len(dataset.train.labels)))
    losses = []
    for number in range(trainer.steps_per_epoch):
        rows = order[32 * number : 32 * (number + 1)]
        key = jax.random.fold_in(trainer.key("augment", 3), number)
        images = augment(key, jnp.asarray(dataset.train.images[rows]), dataset.preprocessing)
        images = normalize(images, dataset.preprocessing)
        params, stats, opt_state, loss = step(
            params, stats, opt_state, images, jnp.asarray(dataset.train.labels[rows])
        )
        losses.append(float(loss))
    sums = trainer.train_epoch(3, 0.05, None)
    assert mean_loss(sums) == pytest.approx(np.mean(losses), rel=1e-5)
    assert int(sums.examples) == 32 * trainer.steps_per_epoch
    _close(trainer.exact_variables(), {"params": params, "batch_stats": stats}, 1e-4)


def test_the_start_is_that_of_the_network_at_its_own_depths():
    """Although it is drawn at the capacity, by a program that is compiled in a hurry."""
    trainer, dataset = _make(**{"model.family": "basic3", "model.bn_scale_init": "uniform"})
    image = jnp.zeros((1, *dataset.image_shape))
    _equal(trainer.exact_variables(), jax.jit(trainer.network.init)(trainer.key("init", 0), image))
    padded = jax.tree.leaves(trainer.padded_state.params["stage1"]["rest"])
    assert all(not np.any(leaf) for leaf in padded)  # Depth 1: every slot is dead.


def test_perturbing_starts_an_optimizer_that_remembers_weights_with_those_that_were_moved():
    """Schedule-free steps from weights of its own: with the draw's all that was grown was lost."""
    optimizer = optax.contrib.schedule_free_sgd(0.1)
    grown, fresh = {"kernel": np.full(3, 5.0)}, {"kernel": np.full(3, -3.0)}
    before = make_state({"params": grown}, optimizer, ema=True)
    after = perturb(before, fresh, 0.5, optimizer)
    _equal(after.opt_state, optimizer.init({"kernel": jnp.ones(3)}))
    _equal(after.ema, {"kernel": np.ones(3)})


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_perturbing_moves_weights_towards_a_fresh_draw_and_starts_the_optimizer_anew(share):
    """Shrink and perturb: (1 - share) w + share w0; with 1 a net from scratch is left."""
    trainer, dataset = _make(**{"optimizer.ema": 0.9})
    trainer.train_epoch(0, 0.05, None)
    before = trainer.exact_state()
    trainer.perturb(share, 7)
    after, image = trainer.exact_state(), jnp.zeros((1, *dataset.image_shape))
    fresh = jax.jit(trainer.network.init)(trainer.key("perturb", 7), image)["params"]
    mixed = jax.tree.map(lambda w, w0: (1 - share) * w + share * w0, before.params, fresh)
    _close(after.params, mixed, 1e-6)
    _equal(after.ema, after.params)
    _equal(after.batch_stats, before.batch_stats)
    momenta = [_leaves(state.opt_state) for state in (before, after)]
    assert any(np.any(leaf) for leaf in momenta[0].values())
    assert not any(np.any(leaf) for leaf in momenta[1].values())
    padded = jax.tree.leaves(trainer.padded_state.params["stage1"]["rest"])
    assert all(not np.any(leaf) for leaf in padded)
    # Another epoch draws otherwise, and what comes out trains.
    assert not np.array_equal(*(jax.random.key_data(trainer.key("perturb", e)) for e in (7, 8)))
    assert np.isfinite(mean_loss(trainer.train_epoch(1, 0.05, None)))


def test_every_epoch_has_its_own_order_and_visits_no_example_twice():
    trainer, dataset = _make()
    count = len(dataset.train.labels)
    orders = [np.asarray(epoch_order(trainer.key("order", e), count)) for e in (0, 1)]
    assert not np.array_equal(*orders)
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_batches_from_the_host_train_the_same_network():
    results = []
    for on_device in ("yes", "no"):
        trainer, _ = _make(**{"data.on_device": on_device})
        sums = trainer.train_epoch(0, 0.05, None)
        validated = trainer.evaluate("validation")
        results.append((mean_loss(sums), percent(validated), trainer.exact_variables()))
    device, host = results
    assert device[0] == pytest.approx(host[0], rel=1e-5)
    assert device[1] == host[1]
    _close(device[2], host[2], 1e-5)


@pytest.mark.parametrize("on_device", ["yes", "no"])
@pytest.mark.parametrize("batch_size", [16, 32])
def test_evaluation_is_what_the_network_makes_of_all_images_at_once(on_device, batch_size):
    """Whatever number of images it looks at together."""
    trainer, dataset = _make(**{"data.on_device": on_device, "data.batch_size": batch_size})
    trainer.train_epoch(0, 0.05, None)
    for part, split in (("validation", dataset.validation), ("test", dataset.test)):
        images = normalize(jnp.asarray(split.images), dataset.preprocessing)
        logits = trainer.network.apply(trainer.exact_variables(), images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, split.labels)
        sums = trainer.evaluate(part)
        assert int(sums.examples) == len(split.labels)
        assert int(sums.correct) == np.sum(np.argmax(logits, -1) == split.labels)
        assert mean_loss(sums) == pytest.approx(float(losses.mean()), rel=1e-5)


def test_images_are_evaluated_in_as_few_and_equal_batches_as_will_do():
    for devices in (1, 4):
        for batch_size in (devices, 16, 100, 128):
            for count in (1, 7, 8, 43, 127, 128, 129, 285, 5000):
                size = choose_evaluation_batch_size(batch_size, count, devices)
                assert 1 <= size <= batch_size and size % devices == 0
                batches = -(-count // size)
                assert batches == -(-count // batch_size)
                assert size == batch_size or batches * size - count < 8 * devices * batches


def test_watching_changes_no_bit(monkeypatch):
    """A progress bar cuts the epoch into several dispatches, and so do stops the evaluation."""
    plain, _ = _make()
    watched, _ = _make()
    seen, looks = [], []
    monkeypatch.setattr("autogrow_jax.steps.feed.SECONDS_PER_DISPATCH", 1e-9)
    watched.look = lambda: looks.append(watched.begun.steps)
    sums = plain.train_epoch(0, 0.05, None)
    cut = watched.train_epoch(0, 0.05, lambda steps, images: seen.append((steps, images)))
    assert len(seen) >= 1
    assert [images for _, images in seen] == [32 * steps for steps, _ in seen]
    assert float(sums.loss) == float(cut.loss)
    _equal(plain.exact_variables(), watched.exact_variables())
    steps = watched.steps_per_epoch
    assert looks == [*range(1, steps + 1)]
    whole, parts = plain.evaluate("test"), watched.evaluate("test")
    assert looks[steps:] and set(looks[steps:]) == {steps}
    assert float(whole.loss) == float(parts.loss)
    np.testing.assert_array_equal(whole.by_class, parts.by_class)


@pytest.mark.devices(4)
@pytest.mark.parametrize("parallel", ["jit", "pmap"])
@pytest.mark.slow
def test_four_devices(parallel):
    """Global statistics: four devices give what one gives. Per device: they do not."""
    trained = []
    for num_devices in (1, 4):
        trainer, _ = _make(num_devices=num_devices, parallel=parallel)
        sums = trainer.train_epoch(0, 0.05, None)
        trainer.grow((1,), 1, 0.0)
        trainer.train_epoch(1, 0.05, None)
        trained.append((mean_loss(sums), percent(trainer.evaluate("test")), trainer))
    (loss, accuracy, one), (loss4, accuracy4, four) = trained
    if parallel == "jit":
        assert loss == pytest.approx(loss4, rel=1e-5)
        assert accuracy == accuracy4
        _close(one.exact_variables(), four.exact_variables(), 1e-4)
    else:
        assert loss != pytest.approx(loss4, rel=1e-5)
        assert loss == pytest.approx(loss4, rel=0.2)


def test_per_device_statistics_on_one_device_are_global():
    jit, _ = _make()
    pmap, _ = _make(parallel="pmap")
    assert float(jit.train_epoch(0, 0.05, None).loss) == float(pmap.train_epoch(0, 0.05, None).loss)


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize(("optimizer", "reset"), [("sgd", False), ("adam", False), ("adam", True)])
def test_growth_keeps_old_arrays_and_momentum(optimizer, reset):
    how = {"optimizer.name": optimizer, "growth.initializer": "gaussian"}
    trainer, _ = _make(**how, **{"growth.reset_optimizer": reset})
    trainer.train_epoch(0, 0.01, None)
    before = trainer.exact_state()
    trainer.grow((0, 0, 2), 1, 0.0)
    after = trainer.exact_state()
    assert trainer.depths == (4, 1, 2)
    moments = 0
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
    ):
        name = jax.tree_util.keystr(path)
        grown = stage_of(path) in (0, 2)
        kept, fresh = (new[: len(old)], new[len(old) :]) if grown else (new, 0)
        if ".opt_state" not in name:
            np.testing.assert_array_equal(kept, old, err_msg=name)
            continue
        if reset:
            assert not np.any(new), name
        else:
            np.testing.assert_array_equal(kept, old, err_msg=name)
        assert not np.any(fresh), name
        moments += 1
    assert moments > 10
    kernel = after.params["stage0"]["rest"]["conv1"]["kernel"]
    # He-normal draws, and the two new blocks do not start alike.
    assert np.std(kernel[1:]) == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.1)
    assert not np.array_equal(kernel[1], kernel[2])


@pytest.fixture
def one_stage(monkeypatch):
    """A family of one stage: the programs are the same in kind and compile in a third."""
    family = get_family("plain3")._replace(widths=(16,), stem_width=16)
    monkeypatch.setitem(FAMILIES, "plain1", family)


@pytest.mark.usefixtures("optax_promotion", "one_stage")
@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [("amsgrad", 0.01), ("adagrad", 0.05), ("adadelta", 1.0), ("rmsprop", 1e-3)],
)
def test_every_optimizer_learns_and_leaves_dead_slots_zero(optimizer, rate):
    family = {"model.family": "plain1", "model.depths": (2,)}
    trainer, _ = _make(**{"optimizer.name": optimizer, **family})
    losses = [mean_loss(trainer.train_epoch(epoch, rate, None)) for epoch in range(4)]
    assert losses[-1] < losses[0]
    checked = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(trainer.padded_state):
        for stage, depth in enumerate(trainer.depths):
            if stage_of(path) == stage:
                assert leaf.shape[0] == trainer.capacities[stage] - 1
                assert not np.any(leaf[depth - 1 :]), jax.tree_util.keystr(path)
                checked += 1
    assert checked >= 5


def test_average_of_weights():
    trainer, _ = _make(**{"optimizer.ema": 0.5, "data.batch_size": 120})
    start = trainer.exact_state()
    trainer.train_epoch(0, 0.05, None)
    after = trainer.exact_state()
    expected = jax.tree.map(lambda e, p: 0.5 * e + 0.5 * p, start.params, after.params)
    _close(after.ema, expected, 1e-6)
    _equal(trainer.exact_variables()["params"], after.ema)


@pytest.mark.parametrize("on_device", ["yes", "no"])
def test_what_initializers_look_at_stands_for_all_classes(on_device):
    """Of a folder the first images, sorted as they are, are of one class."""
    settings = config_lib.resolve({**_TINY, "data.on_device": on_device})
    mixed = load_data(settings)
    order = np.argsort(mixed.train.labels, kind="stable")
    train = Split(*(np.asarray(array)[order] for array in mixed.train))
    trainers = [Trainer(settings, replace(mixed, train=part)) for part in (mixed.train, train)]
    (images, labels), (others, sorted_labels) = (t._feed.some_images(32) for t in trainers)
    np.testing.assert_array_equal(images, mixed.train.images[:32])
    np.testing.assert_array_equal(labels, mixed.train.labels[:32])
    assert len(set(train.labels[:32].tolist())) < 4
    assert np.bincount(sorted_labels, minlength=10).min() >= 2
    rows = np.linspace(0, len(train.labels) - 1, 32).astype(int)
    np.testing.assert_array_equal(others, train.images[rows])


def test_a_block_that_pretraining_lost_is_told_before_it_can_be_saved(monkeypatch):
    trainer, _ = _make(**{"growth.initializer": "adam"})

    def lose(feed, recipe, state, *how):
        return state._replace(params=jax.tree.map(lambda leaf: leaf * np.nan, state.params))

    monkeypatch.setattr("autogrow_jax.steps.trainer.pretrain", lose)
    with pytest.raises(UserError, match=r"initializer 'adam' made .* of a new block NaN"):
        trainer.grow((0,), 1, 200.0)


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize("family", ["plain3", pytest.param("basic3", marks=pytest.mark.slow)])
def test_adam_pretraining_changes_the_new_block_only(family):
    trainer, _ = _make(**{"model.family": family, "growth.initializer": "adam"})
    trainer.train_epoch(0, 0.01, None)
    before = trainer.exact_state()
    default, _ = _make(**{"model.family": family, "growth.initializer": "default"})
    default.restore(before, trainer.depths, trainer.capacities)
    # An accuracy nothing reaches: all ten epochs.
    trainer.grow((0,), 1, 200.0)
    default.grow((0,), 1, 0.0)
    after, start = trainer.exact_state(), default.exact_state()
    moved = set()
    for (path, old), new, first in zip(
        jax.tree_util.tree_leaves_with_path(before),
        jax.tree.leaves(after),
        jax.tree.leaves(start),
        strict=True,
    ):
        name = jax.tree_util.keystr(path)
        kept = new[: len(old)] if stage_of(path) == 0 else new
        np.testing.assert_array_equal(kept, old, err_msg=name)
        if ".params" in name and not np.array_equal(new, first):
            moved.add(name.split(".params")[1])
    bn = "['stage0']['rest']['bn2']" if family == "basic3" else "['stage0']['rest']['bn1']"
    expected = {f"{bn}['scale']", f"{bn}['bias']"}
    if family == "plain3":
        expected.add("['stage0']['rest']['conv1']['kernel']")
    assert moved == expected
