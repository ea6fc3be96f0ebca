"""Folders of images as people have them: parts, classes, links, names, and where arrays go."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autogrow_jax.data import load_dataset, walk_files
from autogrow_jax.data.load import read_source
from autogrow_jax.errors import UserError


def fill(root, *folders, count=3, suffix=".png"):
    """`count` images in each folder, no two alike: the content of each is made of its path."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            write(root / folder / f"{i}{suffix}", root)


def write(path, root):
    seed = list(os.fsencode(path.relative_to(root)))
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, "png")


def read(root, **settings):
    """The set's own parts as {part: {class: set of file names}}, told by the pixels; the notes."""
    settings = {"layout": "auto", "background": "white"} | settings
    source = read_source(f"folder:{root}", "", 0, str(root.parent / "cache"), **settings)
    parts = {}
    for part in ("train", "validation", "test"):
        split = getattr(source, part)
        if split is not None:
            classes = parts.setdefault(part, {name: set() for name in source.class_names})
            files = source.files[part]
            for path, image, label in zip(files, split.images, split.labels, strict=True):
                assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), image)
                classes[source.class_names[label]].add(str(path.relative_to(root)))
    return parts, source.notes


def files(*folders, count=3, suffix=".png"):
    return {f"{folder}/{i}{suffix}" for folder in folders for i in range(count)}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "pets").mkdir()
    return tmp_path / "pets"


@pytest.mark.parametrize(
    "names",
    [
        ("train", None, None),
        ("TRAIN", "val", None),
        ("Training", None, "Testing"),
        ("training", "Valid", "test"),
        ("train", "validation", "eval"),
        ("Train", "DEV", "Test"),
    ],
)
def test_parts_are_found_under_the_names_people_use(root, names):
    named = dict(zip(("train", "validation", "test"), names, strict=True))
    named = {part: name for part, name in named.items() if name}
    fill(root, *(f"{name}/{c}" for name in named.values() for c in ("cat", "dog")))
    parts, _ = read(root)
    assert parts == {
        part: {c: files(f"{name}/{c}") for c in ("cat", "dog")} for part, name in named.items()
    }


def test_val_and_test_alone_are_parts_and_not_two_classes(root):
    fill(root, "val/cat", "val/dog", "test/cat", "test/dog")
    parts, _ = read(root)
    assert list(parts) == ["validation", "test"]
    with pytest.raises(UserError, match=f"{root}: nothing to train on"):
        load_dataset(f"folder:{root}", cache_directory=str(root.parent / "cache"))


@pytest.mark.parametrize("above", ["flowers", "flowers/v2", "test"])
@pytest.mark.parametrize("parts", [[], ["train", "test"]])
def test_a_folder_one_level_too_high_is_understood(root, above, parts):
    if above == "test" and not parts:
        pytest.skip("that is a test part")
    inside = [f"{above}/{part}" for part in parts] or [above]
    fill(root, *(f"{folder}/{c}" for folder in inside for c in ("cat", "dog")))
    (root / "readme.txt").write_text("fetched from somewhere")
    found, notes = read(root)
    assert found["train"] == {c: files(f"{inside[0]}/{c}") for c in ("cat", "dog")}
    assert list(found) == (parts or ["train"])
    assert any(str(root / above) in note for note in notes)


def test_parts_inside_the_classes_are_parts(root):
    fill(root, "cat/train", "cat/test", "dog/train", "dog/test")
    assert read(root)[0] == {
        part: {c: files(f"{c}/{part}") for c in ("cat", "dog")} for part in ("train", "test")
    }
    everything = {c: files(f"{c}/test", f"{c}/train") for c in ("cat", "dog")}
    assert read(root, layout="classes")[0] == {"train": everything}


def test_a_test_part_beside_its_classes_is_one(root):
    fill(root, "cat", "dog", "test/cat", "test/dog")
    assert read(root)[0] == {
        "train": {c: files(c) for c in ("cat", "dog")},
        "test": {c: files(f"test/{c}") for c in ("cat", "dog")},
    }


def test_a_class_of_trains_is_a_class(root):
    fill(root, "bus", "car", "train")
    assert read(root)[0] == {"train": {c: files(c) for c in ("bus", "car", "train")}}


def test_a_folder_beside_parts_that_holds_no_image_is_no_class(root):
    fill(root, "train/cat", "train/dog")
    (root / "annotations").mkdir()
    (root / "annotations" / "cat.xml").write_text("<x/>")
    parts, notes = read(root)
    assert parts == {"train": {c: files(f"train/{c}") for c in ("cat", "dog")}}
    assert "passed over as no images: 1 .xml" in notes


AMBIGUOUS = {
    "parts beside classes": (["train/cat", "train/dog", "eel"], {"cat", "dog"}),
    "images beside a test part": (["cat", "dog", "test"], {"cat", "dog"}),
    "parts without classes": (["train", "test"], None),
    "parts in one class": (["cat", "dog/train", "dog/test"], None),
    "a test part with a number": (["train", "test1"], None),
}


@pytest.mark.parametrize("folders, parts", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_refused_until_a_key_decides(root, folders, parts):
    fill(root, *folders)
    with pytest.raises(UserError) as error:
        read(root)
    for words in ("part(s)", "class(es)", "data.layout=parts", "data.layout=classes", str(root)):
        assert words in str(error.value)
    tops = {folder.split("/")[0] for folder in folders}
    assert set(read(root, layout="classes")[0]["train"]) == tops
    if parts is None:
        with pytest.raises(UserError):
            read(root, layout="parts")
    else:
        assert set(read(root, layout="parts")[0]["train"]) == parts


@pytest.mark.parametrize(
    "names",
    [
        ("asl_train", "asl_test"),
        ("train2017", "val2017"),
        ("train ", "test (1)"),
        ("pets-training-set", "pets-validation-set", "pets-test-set"),
    ],
)
def test_folders_that_are_called_nearly_like_parts_are_no_classes_unless_a_key_says_so(root, names):
    fill(root, *(f"{part}/{name}" for part in names for name in ("cat", "dog")))
    with pytest.raises(UserError, match="can be read in two ways"):
        read(root)
    parts, _ = read(root, layout="parts")
    assert all(set(classes) == {"cat", "dog"} for classes in parts.values())
    assert len(parts) == len(names) and "train" in parts
    assert set(read(root, layout="classes")[0]["train"]) == {name.strip() for name in names}


def test_a_part_within_a_folder_of_its_name_is_read_where_parts_are_asked_for(root):
    fill(root, *(f"{part}/{part}/{name}" for part in ("s_train", "s_test") for name in "ab"))
    fill(root, "s_pred")
    with pytest.raises(UserError, match="s_test/, s_train/ as part"):
        read(root)
    parts, _ = read(root, layout="parts")
    assert {name: set(classes) for name, classes in parts.items()} == {
        "train": {"a", "b"},
        "test": {"a", "b"},
    }


def test_classes_are_no_parts_for_a_word_in_their_names(root):
    fill(root, "bustest", "crash_test", "train", "trainer", "web_dev")
    assert len(read(root)[0]["train"]) == 5
    (root / "train").rename(root / "tram")
    assert len(read(root)[0]["train"]) == 5


def test_folders_of_the_same_names_in_all_classes_are_told(root):
    fill(root, *(f"{how}/{name}" for how in ("color", "grayscale") for name in ("cat", "dog")))
    parts, notes = read(root)
    assert set(parts["train"]) == {"color", "grayscale"}
    assert any("each class holds folders cat, dog; if these are the classes" in n for n in notes)
    fill(root, "segmented/cat")
    assert not any("each class holds" in note for note in read(root)[1])


@pytest.mark.parametrize("there", ["runs/first", "runs"])
def test_a_run_among_the_images_is_no_class(root, there):
    """Where somebody starts one in the folder of the images: runs/ is made beside them."""
    fill(root, "cat", "dog")
    fill(root, f"{there}/plots")
    (root / there / "checkpoints").mkdir()
    (root / there / "config.json").write_text("{}")
    parts, notes = read(root)
    assert set(parts["train"]) == {"cat", "dog"}
    assert any("was passed over: no class" in note for note in notes)
    assert not any("runs" in path.parts for path in walk_files(root))
    fill(root, "runs/more")
    assert ("runs" in read(root)[0]["train"]) == (there != "runs")


def test_images_beside_the_classes_are_counted(root):
    fill(root, "cat", "dog", ".", count=2)
    parts, notes = read(root)
    assert parts == {"train": {c: files(c, count=2) for c in ("cat", "dog")}}
    assert f"passed over, in no class folder: 2 images such as {root}/0.png" in notes


@pytest.mark.parametrize("names", [("training_set", "test_set"), ("Train images", "TestData")])
def test_parts_may_be_called_sets_or_images(root, names):
    fill(root, *(f"{part}/{name}" for part in names for name in ("cat", "dog")))
    parts, _ = read(root)
    assert parts == {
        part: {name: files(f"{folder}/{name}") for name in ("cat", "dog")}
        for part, folder in zip(("train", "test"), names, strict=True)
    }


def test_the_key_decides_where_parts_lie_beside_a_folder_of_something_else(root):
    fill(root, *(f"images/{part}/{name}" for part in ("train", "test") for name in ("cat", "dog")))
    (root / "labels").mkdir()
    (root / "labels" / "0.txt").write_text("cat")
    with pytest.raises(UserError, match=r"two ways: .*data\.layout=parts"):
        read(root)
    parts, notes = read(root, layout="parts")
    assert list(parts) == ["train", "test"] and list(parts["train"]) == ["cat", "dog"]
    assert "passed over as no images: 1 .txt" in notes


def test_what_a_class_without_images_holds_is_told(root):
    fill(root, "cat", "dog")
    (root / "eel").mkdir()
    for i in range(3):
        (root / "eel" / f"{i}.tga").write_bytes(b"\0\0\2")
    with pytest.raises(UserError, match=r"eel: no image in it, but 3 \.tga; .* convert"):
        read(root)


def test_names_of_classes_are_matched_however_their_accents_are_written(root):
    """A Mac writes them apart."""
    fill(root, "train/caf\u00e9", "train/dog", "test/cafe\u0301", "test/dog")
    parts, _ = read(root)
    assert parts["test"]["caf\u00e9"] == files("test/cafe\u0301")
    fill(root, "train/cafe\u0301")
    with pytest.raises(UserError, match="one name in two spellings"):
        read(root)


def test_names_of_classes_are_those_of_any_language(root):
    fill(root, "caf\u00e9", "\u732b", os.fsdecode(b"r\xe9"))
    code = (
        "import pathlib, sys; from autogrow_jax.files.listing import list_folder\n"
        "print(ascii(list_folder(pathlib.Path(sys.argv[1]), 'auto', bool).class_names))"
    )
    plain = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    told = subprocess.run([sys.executable, "-c", code, root], capture_output=True, env=plain)
    assert told.stdout.decode().strip() == ascii(("caf\u00e9", r"r\udce9", "\u732b"))


def test_what_macos_leaves_is_passed_over_in_silence(root):
    fill(root, "cat", "dog")
    (root / "cat" / "Icon\r").write_bytes(b"")
    (root / "._cat").write_bytes(b"\0")
    assert read(root)[1] == ()


def test_two_folders_for_one_part_are_refused(root):
    fill(root, "train/cat", "train/dog", "Training/cat", "Training/dog")
    with pytest.raises(UserError, match="both Training/ and train/ for the train part"):
        read(root)


def test_hidden_and_system_folders_count_nowhere(root):
    fill(root, "cat", "dog")
    hidden = (".x", "@eaDir", "__MACOSX", ".ipynb_checkpoints", "#recycle", "@Recycle")
    fill(root, *hidden, *(f"cat/{name}" for name in hidden), *(f"cat/{name}/a" for name in hidden))
    fill(root, "cat/@eaDir/im.png")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png"):
        (root / "cat" / name).write_bytes(b"x")
    assert read(root) == ({"train": {c: files(c) for c in ("cat", "dog")}}, ())


def test_links_are_followed(root, tmp_path):
    fill(tmp_path / "elsewhere", "cat", ".")
    fill(root, "dog", "eel")
    (root / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (root / "eel" / "link.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    parts, _ = read(root)
    assert {name: len(found) for name, found in parts["train"].items()} == {
        "cat": 3,
        "dog": 3,
        "eel": 4,
    }


def test_a_link_to_an_image_has_the_id_of_the_image(root):
    fill(root, "cat", "dog")
    (root / "dog" / "link.png").symlink_to(root / "cat" / "0.png")
    train = read_source(f"folder:{root}", "", 0, str(root.parent / "cache")).train
    assert train.ids[-1] == train.ids[0]
    assert len(set(train.ids.tolist())) == len(train.ids) - 1


@pytest.mark.parametrize("target", ["..", ".", "../..", "../../pets"])
def test_a_link_in_a_circle_is_passed_over_and_named(root, target):
    fill(root, "cat", "dog")
    (root / "cat" / "again").symlink_to(target)
    parts, notes = read(root)
    assert parts == {"train": {c: files(c) for c in ("cat", "dog")}}
    assert any(str(root / "cat" / "again") in note for note in notes)


@pytest.mark.parametrize("link", ["cat/3.png", "eel", "cat/self"])
def test_a_link_to_nowhere_is_named(root, link):
    fill(root, "cat", "dog")
    (root / link).symlink_to("self" if link == "cat/self" else "/nowhere/there")
    with pytest.raises(UserError, match=link):
        read(root)


def test_names_in_any_bytes_work(root):
    name = os.fsdecode(b"caf\xe9")
    fill(root, name, "dog")
    write(root / "dog" / f"{name}.png", root)
    (root / "dog" / f"{name}.txt").write_text("x")
    (root / "dog" / f"{name}.gif").write_bytes(b"x")
    with pytest.raises(UserError, match="caf"):
        read(root)
    (root / "dog" / f"{name}.gif").unlink()
    odd = root.rename(root.with_name(name))
    for _ in range(2):  # The second from the cache.
        source = read_source(f"folder:{odd}", "", 0, str(root.parent / "cache"))
        assert np.bincount(source.train.labels).tolist() == [3, 4]
        texts = (*source.class_names, source.where, *source.notes)
        assert "".join(texts).encode().count(b"caf") == 2  # Of the class and of the folder.


def test_a_long_name_works(root):
    long = root.rename(root.with_name("a" * 250))
    fill(long, "cat", "dog")
    assert len(read(long)[0]["train"]["cat"]) == 3


# --- Where arrays go.


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def everything(root):
    return sorted(root.rglob("*"))


@pytest.mark.parametrize("inside", [".", "sub", "cat"])
def test_a_data_folder_among_the_images_keeps_no_arrays(root, home, inside):
    fill(root, "cat", "dog")
    before = everything(root)
    for _ in range(2):
        dataset = load_dataset(f"folder:{root}", directory=str(root / inside))
        assert dataset.class_names == ("cat", "dog")
    assert everything(root) == before
    assert len(list((home / ".cache" / "autogrow_jax").iterdir())) == 1


def test_a_cache_among_the_images_is_refused(root, home, tmp_path):
    fill(root, "cat", "dog")
    fill(tmp_path, "eels")
    (root / "eel").symlink_to(tmp_path / "eels")
    before = everything(root)
    for inside in (root, root / "cache", root / "cat", tmp_path / "eels" / "x"):
        with pytest.raises(UserError, match="lies among the images"):
            load_dataset(f"folder:{root}", cache_directory=str(inside))
    assert everything(root) == before
    assert not (tmp_path / "eels" / "x").exists()


def test_arrays_that_an_earlier_version_left_among_the_images_are_no_class(root):
    fill(root, "cat", "dog")
    left = root / "folder-pets-0123456789abcdef"
    left.mkdir()
    (left / "info.json").write_text("{}")
    np.save(left / "train_images.npy", np.zeros(3))
    assert set(read(root)[0]["train"]) == {"cat", "dog"}


def test_a_cache_that_cannot_be_written_is_named(root, tmp_path):
    fill(root, "cat", "dog")
    (tmp_path / "file").write_text("x")
    for cache in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/cache")):
        with pytest.raises(UserError, match=r"cannot write the cache.*data\.cache_dir"):
            load_dataset(f"folder:{root}", cache_directory=str(cache))


def test_a_full_disk_is_named_and_leaves_nothing(root, tmp_path):
    fill(root, "cat", "dog", count=40)
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit of the process's own fails as a full disk does, once the signal is ignored.
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write the cache.*make room"):
            read(root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert everything(tmp_path / "cache") == []
    assert len(read(root)[0]["train"]["cat"]) == 40
