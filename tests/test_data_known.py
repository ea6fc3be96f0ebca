"""What a run knows of its data: every image by its content, whatever else lies beside it."""

import numpy as np
from PIL import Image

from autogrow_jax.data import Split, load_dataset
from autogrow_jax.data.partition import hold_out_test
from autogrow_jax.data.types import image_ids


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


def seen_before(old, new):
    """Of each held-out part of a set that grew, how many images were trained on before."""
    parts = {"validation": new.validation, "test": new.test}
    return {name: int(np.isin(part.ids, old.train.ids).sum()) for name, part in parts.items()}


def test_images_added_later_never_move_one_from_train_to_test(tmp_path):
    root = write_classes(tmp_path / "set")
    old = load_folder(root)
    for count in (1, 30):
        write_classes(root, count, stem=f"new{count}", seed=count)
        new = load_folder(root)
        assert seen_before(old, new) == {"validation": 0, "test": 0}
    assert set(old.test.ids) < set(new.test.ids) and set(old.train.ids) < set(new.train.ids)


def test_a_class_added_later_moves_no_image(tmp_path):
    root = write_classes(tmp_path / "set")
    old = load_folder(root)
    write_classes(root, names=("ape",), seed=1)
    new = load_folder(root)
    assert seen_before(old, new) == {"validation": 0, "test": 0}
    assert set(old.test.ids) < set(new.test.ids) and len(new.test.ids) > len(old.test.ids)


def test_copies_of_one_image_go_together(tmp_path):
    root = write_classes(tmp_path / "set", 20)
    for path in sorted(root.rglob("*.png")):
        (path.parent / f"copy_of_{path.name}").write_bytes(path.read_bytes())
    dataset = load_folder(root)
    parts = [set(part.ids) for part in (dataset.train, dataset.validation, dataset.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 80
    assert all(np.bincount(part.labels).min() >= 2 for part in (dataset.validation, dataset.test))


def test_parts_have_about_the_size_asked_for_in_every_class(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6000, 4, 4, 1)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.arange(6000) % 3)
    dataset = load_dataset(str(tmp_path / "a.npz"), validation="0.3")
    for part, expected in ((dataset.test, 400), (dataset.validation, 480)):
        counts = np.bincount(part.labels)
        assert np.abs(counts - expected).max() < 4 * np.sqrt(expected)


def test_of_the_digits_a_fifth_and_a_tenth_are_held_out_in_every_class():
    dataset = load_dataset("digits")
    assert [len(part.labels) for part in (dataset.train, dataset.validation, dataset.test)] == [
        1293,
        145,
        359,
    ]
    for part, share in ((dataset.test, 36), (dataset.validation, 14.4)):
        assert np.abs(np.bincount(part.labels, minlength=10) - share).max() < 4


def test_every_class_is_in_every_part_while_it_has_images_enough(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (240, 4, 4, 1)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.arange(240) % 40)
    for seed in range(5):
        dataset = load_dataset(str(tmp_path / "a.npz"), seed=seed)
        for part in (dataset.train, dataset.validation, dataset.test):
            assert np.bincount(part.labels, minlength=40).min() >= 1


def test_the_image_that_mends_a_class_can_only_go_back_to_train():
    ids, labels = image_ids([bytes([i]) for i in range(256)]), np.zeros(256, np.int32)
    whole = Split(np.zeros((256, 1, 1, 1), np.uint8), labels, ids)
    moved = 0
    for few in range(2, 12):
        start = few * 12
        small, large = (
            hold_out_test(Split(*(array[start : start + count] for array in whole)), "a set")
            for count in (few, few + 8)
        )
        assert not set(small[0].ids) & set(large[1].ids)
        moved += len(set(small[1].ids) & set(large[0].ids))
    assert moved > 0
