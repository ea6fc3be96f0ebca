"""Augmentation: what may come out, how often, and that no image sees another's draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autogrow_jax.data import Preprocessing, normalize
from autogrow_jax.data import augment as eager_augment

augment = jax.jit(eager_augment, static_argnums=2)
CIFAR = Preprocessing((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), crop_padding=4, flip=True)


def images_of(shape, seed=0):
    # From 1, so that every zero in a result is padding.
    return np.random.default_rng(seed).integers(1, 256, shape).astype(np.uint8)


def candidates(image, padding, flip):
    """Every crop of the padded image, as the definition says, and its mirror image."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[top : top + height, left : left + width]
            yield (top, left, False), crop
            if flip:
                yield (top, left, True), crop[:, ::-1]


def draw_of(image, result, padding, flip):
    found = [d for d, crop in candidates(image, padding, flip) if np.array_equal(crop, result)]
    assert len(found) == 1, f"result is {len(found)} of the possible crops"
    return found[0]


@pytest.mark.parametrize("padding, flip", [(0, True), (1, False), (2, True)])
def test_every_result_is_a_crop_and_every_crop_occurs(padding, flip):
    images = images_of((400, 7, 6, 3))
    preprocessing = Preprocessing((0.0,) * 3, (1.0,) * 3, padding, flip)
    results = np.asarray(augment(jax.random.key(3), jnp.asarray(images), preprocessing))
    assert results.dtype == np.uint8
    draws = [draw_of(i, r, padding, flip) for i, r in zip(images, results, strict=True)]
    kinds, counts = np.unique(draws, axis=0, return_counts=True)
    num_kinds = (2 * padding + 1) ** 2 * (1 + flip)
    assert len(kinds) == num_kinds
    # Binomial counts, 5 standard deviations: the draws are uniform.
    expected = len(images) / num_kinds
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_without_augmentation_the_images_come_back():
    images = jnp.asarray(images_of((4, 5, 5, 1)))
    none = Preprocessing((0.0,), (1.0,), crop_padding=0, flip=False)
    assert eager_augment(jax.random.key(0), images, none) is images


def test_an_image_is_treated_alike_in_whatever_company_it_is():
    images = images_of((16, 8, 8, 3))
    others = images_of((16, 8, 8, 3), seed=1)
    others[5] = images[5]
    key = jax.random.key(1)
    one = np.asarray(augment(key, jnp.asarray(images), CIFAR))
    two = np.asarray(augment(key, jnp.asarray(others), CIFAR))
    assert np.array_equal(one[5], two[5])
    assert not np.array_equal(one[4], two[4])


def test_another_key_is_another_draw():
    images = jnp.asarray(images_of((16, 8, 8, 3)))
    one = augment(jax.random.key(1), images, CIFAR)
    assert bool((one == augment(jax.random.key(1), images, CIFAR)).all())
    assert not bool((one == augment(jax.random.key(2), images, CIFAR)).all())


@pytest.mark.devices(4)
def test_a_batch_spread_over_devices_is_treated_alike():
    images, key = images_of((16, 8, 8, 3)), jax.random.key(4)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:2]), ("batch",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    step = jax.jit(lambda key, images: augment(key, images, CIFAR))
    spread = step(key, jax.device_put(images, sharding))
    assert np.array_equal(spread, step(key, jnp.asarray(images)))
    compiled = step.lower(key, jax.device_put(images, sharding)).compile()
    assert "all-gather" not in str(compiled.as_text())


def test_inside_a_loop_as_outside():
    images, key = jnp.asarray(images_of((8, 8, 8, 3))), jax.random.key(5)

    def body(step, images):
        return augment(jax.random.fold_in(key, step), images, CIFAR)

    looped = jax.jit(lambda images: jax.lax.fori_loop(0, 3, body, images))(images)
    for step in range(3):
        images = body(step, images)
    assert np.array_equal(looped, images)


def test_normalize_is_the_definition():
    images = images_of((4, 5, 5, 3))
    expected = (images / 255 - np.asarray(CIFAR.mean)) / np.asarray(CIFAR.std)
    result = normalize(jnp.asarray(images), CIFAR)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, atol=1e-5)
    half = normalize(jnp.asarray(images), CIFAR, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), expected, rtol=1 / 256, atol=1e-6)


def test_padding_is_of_raw_zeros_before_normalisation():
    images = jnp.full((64, 8, 8, 3), 255, jnp.uint8)
    cropped = augment(jax.random.key(0), images, CIFAR)
    values = np.unique(np.asarray(normalize(cropped, CIFAR))[..., 0])
    raw = np.asarray([0.0, 1.0])
    np.testing.assert_allclose(values, (raw - CIFAR.mean[0]) / CIFAR.std[0], rtol=1e-5)


def test_wrong_batches_are_refused():
    with pytest.raises(ValueError, match="float32"):
        augment(jax.random.key(0), jnp.zeros((2, 8, 8, 3)), CIFAR)
    with pytest.raises(ValueError, match="1 channels"):
        normalize(jnp.zeros((2, 8, 8, 1), jnp.uint8), CIFAR)
