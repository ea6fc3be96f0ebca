"""Names that are no data set's, and paths that are none: what was meant is told."""

import numpy as np
import pytest
from PIL import Image

from autogrow_jax.data import load_dataset
from autogrow_jax.data.load import full_name
from autogrow_jax.errors import UserError
from autogrow_jax.main import main
from autogrow_jax.process import user_path
from autogrow_jax.settings_files import find_file


@pytest.fixture
def place(tmp_path):
    """A folder of images, an image, arrays, an archive and a text."""
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "pets" / "cat" / "1.png")
    np.savez(tmp_path / "arrays.npz", x_train=np.zeros(3))
    np.savez(tmp_path / "noted", x_train=np.zeros(3))
    (tmp_path / "pets.zip").write_bytes(b"PK")
    (tmp_path / "notes.txt").write_text("cats")
    return tmp_path


def refusal(name, directory=""):
    with pytest.raises(UserError) as error:
        load_dataset(name, directory=str(directory))
    return str(error.value)


@pytest.mark.parametrize(
    "name, meant",
    [
        ("MNIST", "mnist"),
        ("Fashion-MNIST", "fashion_mnist"),
        ("fashion mnist", "fashion_mnist"),
        ("CIFAR-10", "cifar10"),
        ("cifar_100", "cifar100"),
        ("Digits", "digits"),
        ("mnits", "mnist"),
    ],
)
def test_a_spelling_of_a_known_name_is_told(name, meant):
    assert refusal(name).startswith(f"unknown data set {name!r}; did you mean {meant!r}?")


@pytest.mark.parametrize(
    "spelling, right",
    [
        ("{}/pets", "; it is a folder: for the images in it write folder:{}/pets"),
        ("{}/pets/", "; it is a folder: for the images in it write folder:{}/pets"),
        ("dir:{}/pets", "; write folder:{}/pets"),
        ("Folder:{}/pets", "; write folder:{}/pets"),
        ("imagefolder:{}/pets", "; write folder:{}/pets"),
        ("folder={}/pets", "; write folder:{}/pets"),
        ("folder {}/pets", "; write folder:{}/pets"),
        ("path:{}/pets/cat/1.png", "; it is a single image: a set is a folder"),
        ("NPZ:{}/arrays.npz", "; write npz:{}/arrays.npz"),
        ("TFDS:cifar10", "; write tfds:cifar10"),
        ("{}/pets.zip", "; it is an archive: unpack it"),
        ("{}/notes.txt", "; it is a file of another kind"),
        ("{}/pets/cat/1.png", "written folder:{}/pets/cat"),
        ("{}/dogs", "; there is no such folder or file; images are read from folder:{}/dogs"),
        ("dogs/", "; there is no such folder or file; images are read from folder:dogs/"),
    ],
)
def test_a_path_in_another_form_is_told_how_it_is_written(place, spelling, right):
    assert right.format(place) in refusal(spelling.format(place))


def test_a_path_in_the_data_directory_is_found(place):
    assert f"write folder:{place}/pets" in refusal("pets", place)
    assert f"npz:{place}/noted.npz" not in refusal("noted", place)


@pytest.mark.parametrize(
    "name, right",
    [
        ("folder:{}/arrays.npz", "{}/arrays.npz: no such folder; it is a file of arrays"),
        ("folder:{}/pets.zip", "no such folder; it is an archive"),
        ("folder:{}/pets/cat/1.png", "no such folder; it is a single image"),
        ("npz:{}/pets", "no such file; it is a folder: for the images in it write folder:{}/pets"),
    ],
)
def test_a_path_under_the_wrong_kind_is_told(place, name, right):
    assert right.format(place) in refusal(name.format(place))


# --- Paths that no system can have.

NO_PATHS = {"a\0b": "null byte", "a" * 300: "too long", "b/" * 3000: "too long"}
NO_PATHS |= {"~nobody-of-that-name/x": "home", "\ud800": "surrogates"}


@pytest.mark.parametrize("path", NO_PATHS)
def test_what_cannot_be_a_path_is_refused_with_the_reason(path, tmp_path):
    for use in (
        lambda: user_path(path),
        lambda: load_dataset(f"folder:{path}"),
        lambda: load_dataset(f"npz:{path}"),
        lambda: load_dataset("mnist", directory=path),
        lambda: load_dataset(f"folder:{tmp_path}", cache_directory=path),
        lambda: full_name("folder:x", path),
        lambda: find_file(path),
    ):
        with pytest.raises(UserError, match=f"cannot be a path here .*{NO_PATHS[path]}") as error:
            use()
        assert len(str(error.value)) < 400


@pytest.mark.parametrize("key", ["workdir", "config.compilation_cache", "config"])
@pytest.mark.parametrize("path", ["~nobody-of-that-name", "a" * 300])
def test_a_command_refuses_such_a_path_in_one_line(key, path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([f"--{key}={path}"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "cannot be a path here" in told and told.count("\n") == 1


def test_a_name_that_cannot_be_a_path_is_still_an_unknown_name():
    for name in ("a\0b", "c" * 5000, "~nobody-of-that-name"):
        assert refusal(name).startswith("unknown data set")


def test_home_is_found_and_what_is_not_there_yet_is_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs/a") == tmp_path / "runs" / "a"
    (tmp_path / "file").touch()
    assert user_path(tmp_path / "file" / "below") == tmp_path / "file" / "below"
