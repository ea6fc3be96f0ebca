"""What a run knows of its data: every image by its content, whatever else lies beside it."""

import numpy as np
from PIL import Image

from autogrow_jax.data import load_dataset


def write_classes(root, count=40, names=("ant", "bee", "cat", "dog"), size=8, stem="im", seed=0):
    """`count` images a class; each has a bright square where its class has it."""
    rng = np.random.default_rng(seed)
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 60, (size, size, 3), np.uint8)
            row, column = (size // 2 * place for place in divmod(k % 4, 2))
            pixels[row : row + size // 2, column : column + size // 2] += np.uint8(150)
            Image.fromarray(pixels).save(root / name / f"{stem}{i:03d}.png")
    return root


def load_folder(root, **settings):
    return load_dataset(f"folder:{root}", cache_directory=str(root.parent / "cache"), **settings)


def all_ids(dataset):
    return np.concatenate([part.ids for part in (dataset.train, dataset.validation, dataset.test)])


def test_an_image_has_one_id_whatever_its_size_and_place(tmp_path):
    root = write_classes(tmp_path / "set", 5)
    dataset, again = load_folder(root), load_folder(root, image_size=4)
    assert len(np.unique(all_ids(dataset))) == 20
    assert sorted(all_ids(dataset)) == sorted(all_ids(again))
    for path in root.rglob("*.png"):
        path.rename(path.with_stem(f"x{9 - int(path.stem[2:])}"))
    assert sorted(all_ids(load_folder(root))) == sorted(all_ids(dataset))


def test_images_of_arrays_have_ids_of_their_pixels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.arange(40) % 2)
    np.savez(tmp_path / "b.npz", x_train=images[::-1], y_train=np.arange(40) % 2)
    one, two = (load_dataset(str(tmp_path / f"{name}.npz")) for name in "ab")
    padded = load_dataset(str(tmp_path / "a.npz"), image_size=8)
    assert len(np.unique(all_ids(one))) == 40
    assert sorted(all_ids(one)) == sorted(all_ids(two)) == sorted(all_ids(padded))
