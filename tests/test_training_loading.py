"""A finished run's net, loaded without its data, on its own and as its evaluation has it."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from PIL import Image
from stand_ins import StopAt, Told, tiny_config

from autogrow_jax.build import load_data, resolve
from autogrow_jax.errors import UserError
from autogrow_jax.growth import POLICIES, periodic, register_policy
from autogrow_jax.reporting import QuietReporter
from autogrow_jax.reporting.metrics import read
from autogrow_jax.settings import flatten
from autogrow_jax.training import load, run
from autogrow_jax.training.snapshots import read_snapshot, snapshot_files


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on digits by a policy that is registered no more, and its data set."""
    own = {"finetune.epochs": 1, "finetune.front": True, "optimizer.ema": 0.9}
    config = tiny_config(**own | {"growth.max_epochs": 3, "log.tensorboard": True})
    register_policy("for_a_while", lambda given: periodic(interval=1, max_growth_epochs=3))
    config.growth.policy = "for_a_while"
    dataset = load_data(resolve(config))
    workdir = tmp_path_factory.mktemp("run")
    result = run(config, workdir, reporter=QuietReporter())
    del POLICIES["for_a_while"]
    return workdir, result, dataset


def test_the_net_of_a_copied_run_predicts_what_its_evaluation_counted(finished, tmp_path):
    workdir, result, dataset = finished
    copy = shutil.copytree(workdir, tmp_path / "elsewhere")
    before = sorted(copy.rglob("*"))
    loaded = load(copy)
    assert loaded.depths == result.depths
    assert loaded.class_names == tuple("0123456789")
    assert loaded.epoch == result.epochs
    assert loaded.network.options.convolution == "xla"
    probabilities = loaded.predict(dataset.test.images)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    right = (probabilities.argmax(-1) == dataset.test.labels).mean()
    assert 100 * right == pytest.approx(result.test_accuracy)
    likely = probabilities[np.arange(len(probabilities)), dataset.test.labels]
    assert -np.log(likely).mean() == pytest.approx(result.more["test_loss"], rel=1e-4)
    assert sorted(copy.rglob("*")) == before


def test_loading_says_nothing(finished, caplog):
    logging.set_verbosity(logging.WARNING)
    with caplog.at_level("WARNING"):
        load(finished[0])
    assert caplog.text == ""


def test_batches_of_any_size_give_the_same(finished):
    workdir, _, dataset = finished
    loaded = load(workdir)
    images = dataset.test.images[:10]
    whole = loaded.predict(images)
    np.testing.assert_allclose(loaded.predict(images, batch_size=3), whole, atol=1e-5)
    np.testing.assert_allclose(loaded.predict(list(images[..., 0])), whole, atol=1e-5)
    assert loaded.predict(images[:0]).shape == (0, 10)


def test_images_of_other_sizes_and_in_colour_are_made_to_fit(finished):
    workdir, _, dataset = finished
    loaded = load(workdir)
    image = dataset.test.images[0]
    large = np.kron(image, np.ones((4, 4, 1), np.uint8))
    for one in (image, large, np.repeat(image, 3, axis=2)):  # Its rows are no pictures.
        with pytest.raises(UserError, match=r"which is one image; give a list of images"):
            loaded.predict(one)
    assert loaded.prepare([large, np.repeat(image, 3, axis=2)]).shape == (2, 8, 8, 1)
    np.testing.assert_array_equal(loaded.prepare([np.repeat(image, 3, axis=2)])[0], image)
    for one in (jnp.asarray(image), Image.fromarray(image[..., 0])):
        with pytest.raises(UserError, match=r"which is one image; give a list of images"):
            loaded.predict(one)
    several = [Image.fromarray(each[..., 0]) for each in dataset.test.images[:3]]
    expected = loaded.predict(dataset.test.images[:3])
    np.testing.assert_allclose(loaded.predict(several), expected, atol=1e-5)
    np.testing.assert_allclose(loaded.predict(jnp.asarray(dataset.test.images[:3])), expected)
    with pytest.raises(UserError, match=r"mode P; image\.convert\('RGB'\)"):
        loaded.predict([several[0].convert("RGB").quantize(8)])
    for most in (0, -1):
        with pytest.raises(UserError, match=f"batch_size is {most}"):
            loaded.predict(several, batch_size=most)
        with pytest.raises(UserError, match=f"batch_size is {most}"):
            next(loaded.predict_files(["a.png"], batch_size=most))
    with pytest.raises(UserError, match=r"float64 \[8, 8, 1\]; the net takes uint8"):
        loaded.predict([image / 255])
    with pytest.raises(UserError, match="images of 4 channels"):
        loaded.predict([np.repeat(image, 4, axis=2)])


def test_the_best_net_is_the_one_that_was_measured_best(finished):
    """Its checkpoint may hold a block more, which grew after the measurement."""
    workdir, _, dataset = finished
    lines = read(workdir / "metrics.jsonl")
    best = max(lines, key=lambda line: line["validation_accuracy"])
    loaded = load(workdir, "best")
    line = lines[loaded.epoch - 1]
    assert line["validation_accuracy"] == best["validation_accuracy"]
    assert loaded.depths == tuple(line["depths"])
    right = loaded.predict(dataset.validation.images).argmax(-1) == dataset.validation.labels
    assert 100 * right.mean() == pytest.approx(line["validation_accuracy"])


def test_what_cannot_be_loaded_is_refused(finished, tmp_path):
    workdir, *_ = finished
    with pytest.raises(UserError, match="which is 'finale'; did you mean 'final'"):
        load(workdir, "finale")
    with pytest.raises(UserError, match="convolution is 'xls'; did you mean 'xla'"):
        load(workdir, convolution="xls")
    with pytest.raises(UserError, match="holds no run"):
        load(tmp_path)
    assert list(tmp_path.iterdir()) == []
    copy = shutil.copytree(workdir, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        load(copy)
    (copy / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"has no dataset\.json"):
        load(copy)


def test_right_after_a_growth_the_net_that_an_epoch_has_seen_is_loaded_and_evaluated(tmp_path):
    """The block that was drawn at random meanwhile is none of it."""
    own = {"growth.initializer": "gaussian", "growth.max_epochs": 3, "data.fraction": 1.0}
    with pytest.raises(KeyboardInterrupt):
        run(tiny_config(**own), tmp_path, reporter=StopAt(1))
    (line, _) = read(tmp_path / "metrics.jsonl")
    loaded = load(tmp_path)
    found = run({"mode": "evaluate"}, tmp_path, reporter=(told := Told()))
    assert found.depths == loaded.depths == tuple(line["depths"]) == (1, 1, 1)
    dataset = load_data(resolve(tiny_config(**own)))
    right = loaded.predict(dataset.test.images).argmax(-1) == dataset.test.labels
    assert found.test_accuracy == pytest.approx(100 * right.mean())
    said = f"validation accuracy {line['validation_accuracy']:.2f} %"
    assert any(said in text for text in told.messages)


def test_without_fine_tuning_the_net_that_grew_last_is_what_there_is(tmp_path):
    own = {"growth.interval": 2, "growth.max_epochs": 2, "finetune.epochs": 0}
    config = tiny_config(**own | {"growth.initializer": "gaussian", "snapshots.every": 3})
    result = run(config, tmp_path, reporter=QuietReporter())
    loaded = load(tmp_path)
    assert loaded.depths == result.depths == (2, 1, 1)
    dataset = load_data(resolve(config))
    right = loaded.predict(dataset.test.images).argmax(-1) == dataset.test.labels
    assert 100 * right.mean() == pytest.approx(result.test_accuracy)
    first, last = map(read_snapshot, snapshot_files(tmp_path / "snapshots"))
    assert (first.depths, last.depths) == ((1, 1, 1), (2, 1, 1))


def test_a_net_loaded_is_open_to_transformations(finished):
    workdir, _, dataset = finished
    loaded = load(workdir)
    images = loaded.prepare(dataset.test.images[:2]) / np.float32(255)

    def logits(x):
        return loaded.network.apply(loaded.variables, x)

    gradient = jax.grad(lambda x: logits(x)[:, 3].sum())(images)
    assert gradient.shape == images.shape
    assert np.abs(gradient).max() > 0
    assert json.loads((workdir / "config.json").read_text()) == loaded.config


def test_what_a_run_was_trained_by_need_not_be_registered_to_read_it(finished):
    """As by who loads it, draws its trajectory or exports it on another machine."""
    workdir, *_ = finished
    config = json.loads((workdir / "config.json").read_text())
    changes = {"loss": "mine", "data.augment": "mine", "optimizer.name": "mine"}
    changes |= {"finetune.schedule": "mine", "growth.initializer": "mine"}
    settings = resolve(flatten(config) | changes, to_read=True)
    assert (settings.loss, settings.optimizer.name) == ("mine", "mine")
    assert settings.model.depths == (1, 1, 1)
    with pytest.raises(UserError, match="loss is 'mine'"):
        resolve(flatten(config) | {"growth.policy": "periodic", "loss": "mine"})
