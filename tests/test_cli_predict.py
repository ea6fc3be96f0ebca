"""`autogrow predict` and `evaluate` on a run of one's own pictures."""

import csv
import html
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stand_ins import SHAPES, draw_shapes, train_on_shapes

from autogrow_jax import cli
from autogrow_jax.errors import UserError
from autogrow_jax.models import FAMILIES
from autogrow_jax.training import load


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A run on pictures, and its result."""
    return train_on_shapes(tmp_path_factory.mktemp("shapes"))


def predict(workdir, *arguments):
    return cli.main(["predict", f"--workdir={workdir}", *map(str, arguments)])


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_predictions_of_the_test_images_are_what_the_run_counted(shapes, tmp_path, capsys):
    workdir, result = shapes
    images = workdir.parent / "pictures" / "test"
    assert predict(workdir, images, f"--output={tmp_path / 'found.csv'}", "--batch-size=4") == 0
    found = rows((tmp_path / "found.csv").read_text())
    assert [row["file"] for row in found] == sorted(map(str, images.rglob("*.*")))
    right = [row["class"] == row["file"].split("/")[-2] for row in found]
    assert 100 * np.mean(right) == pytest.approx(result.test_accuracy)
    likely = {row["file"]: float(row["probability"]) for row in found}
    told = capsys.readouterr()
    assert told.out == ""
    assert "15 images: " in told.err
    assert f"wrote {tmp_path / 'found.csv'}" in told.err
    # The likeliest come first, and are the same whatever the form.
    assert predict(workdir, images, "--format=json", "--top=99") == 0
    for answer in json.loads(capsys.readouterr().out):
        parts = [each["probability"] for each in answer["top"]]
        assert sorted(parts, reverse=True) == parts
        assert sum(parts) == pytest.approx(1, abs=1e-5)
        assert {each["class"] for each in answer["top"]} == set(SHAPES)
        assert answer["probability"] == pytest.approx(likely[answer["file"]], abs=1e-5)
    assert predict(workdir, images, "--top=1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [row["class"] for row in found]


@pytest.mark.parametrize("kind", ["json", "csv", "table"])
def test_an_evaluation_is_written_as_predictions_are(shapes, kind, tmp_path, capsys):
    workdir, result = shapes
    given, file = ["evaluate", f"--workdir={workdir}"], tmp_path / f"found.{kind}"
    assert cli.main([*given, f"--format={kind}", f"--output={file}"]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert f"wrote {file}" in told.err
    assert "trained on" in told.err
    text = file.read_text()
    if kind == "table":
        assert f"test accuracy        {result.test_accuracy:.2f} %" in text
        return
    (found,) = [json.loads(text)] if kind == "json" else rows(text)
    assert float(found["test_accuracy"]) == result.test_accuracy
    assert int(found["test_examples"]) == 15
    depths = list(result.depths) if kind == "json" else "-".join(map(str, result.depths))
    assert found["depths"] == depths


def test_what_cannot_be_read_is_named_and_the_rest_is_told(shapes, tmp_path, capsys):
    workdir, _ = shapes
    images = tmp_path / "new"
    draw_shapes(images, 2, seed=2)
    (images / "notes.txt").write_text("of the holidays")
    (images / "broken.jpg").write_bytes((images / "ring" / "1.jpg").read_bytes()[:200])
    (images / "empty.png").touch()
    (images / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (images / "itself.png").symlink_to("itself.png")
    (images / "round").symlink_to(images)
    (images / ".hidden.png").touch()
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(images / "deep.png")
    (images / "deep.png").rename(images / "depth")  # An image by its content.
    assert predict(workdir, images, tmp_path / "none.png", "--format=csv") == 1
    told = capsys.readouterr()
    assert len(rows(told.out)) == 6
    named = [line for line in told.err.splitlines() if line.startswith("passed over: ")]
    files = ("broken.jpg", "depth", "empty.png", "gone.png", "itself.png", "none.png")
    assert len(named) == 6
    assert all(name in line for name, line in zip(files, named, strict=True))
    assert "none.png: not readable as an image (no such file)" in named[5]
    assert "passed over as no images: 1 .txt" in told.err
    assert predict(workdir, tmp_path / "none.png") == 1
    assert "error: no image that could be read in" in capsys.readouterr().err


def test_of_a_run_that_has_not_finished_that_is_said(shapes, tmp_path, capsys):
    workdir, result = shapes
    copy = shutil.copytree(workdir, tmp_path / "run")
    image = workdir.parent / "pictures" / "test" / "ring"
    assert predict(copy, image) == 0
    assert "has not finished" not in capsys.readouterr().err
    (copy / "result.json").unlink()
    assert predict(copy, image, "--format=csv") == 0
    told = capsys.readouterr()
    depths = "-".join(map(str, result.depths))
    words = f"{copy} has not finished: this is its net {depths} after {result.epochs} epochs"
    assert told.err.startswith(words)
    assert len(rows(told.out)) == 5
    assert cli.main(["export", f"--workdir={copy}", "--to=npz"]) == 0
    assert capsys.readouterr().err.startswith(words)


def test_images_of_every_kind_are_read_as_training_reads_them(shapes, tmp_path):
    """Grey, transparent on the run's own background, turned by a tag, in several frames."""
    workdir, _ = shapes
    loaded = load(workdir)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    colour = Image.fromarray(pixels)
    colour.convert("L").save(tmp_path / "grey.png")
    grey = np.asarray(colour.convert("L"))[..., None]
    np.testing.assert_array_equal(loaded.read(tmp_path / "grey.png"), np.repeat(grey, 3, axis=2))
    Image.new("RGBA", (20, 30), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (loaded.read(tmp_path / "clear.png") == (255, 128, 0)).all()
    Image.new("LA", (20, 30), (7, 0)).save(tmp_path / "clear_grey.png")
    assert (loaded.read(tmp_path / "clear_grey.png") == (255, 128, 0)).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(loaded.read(tmp_path / "turned.png"), np.rot90(pixels, -1))
    colour.save(tmp_path / "moves.png", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    np.testing.assert_array_equal(loaded.read(tmp_path / "moves.png"), pixels)
    with pytest.raises(UserError, match=r"gone\.png: not readable as an image"):
        loaded.read(tmp_path / "gone.png")
    with pytest.raises(UserError, match="notes: no such file"):
        loaded.read(tmp_path / "notes")
    many = [tmp_path / name for name in ("grey.png", "gone.png", "moves.png")]
    found = list(loaded.predict_files(many, batch_size=1))
    assert [path for path, _ in found] == many
    assert isinstance(found[1][1], UserError)
    expected = loaded.predict([pixels])[0]
    np.testing.assert_allclose(found[2][1], expected, atol=1e-6)


def test_a_config_file_brings_the_family_that_a_run_has_of_ones_own(shapes, tmp_path, capsys):
    """What registered it could be given to train alone."""
    workdir, _ = shapes
    copy, image = shutil.copytree(workdir, tmp_path / "run"), workdir.parent / "pictures" / "test"
    assert predict(workdir, image, "--format=csv") == 0
    expected = capsys.readouterr().out
    whole = json.loads((copy / "config.json").read_text())
    config = whole | {"model": whole["model"] | {"family": "narrow_of_mine"}}
    (copy / "config.json").write_text(json.dumps(config))
    # What is wrong otherwise has nothing to do with it.
    wrong = config | {"data": config["data"] | {"batch_size": -3}, "model": whole["model"]}
    (copy / "config.json").write_text(json.dumps(wrong))
    assert cli.main(["evaluate", f"--workdir={copy}"]) == 1
    told = capsys.readouterr().err
    assert "batch_size is -3" in told and "--config=FILE" not in told
    (copy / "config.json").write_text(json.dumps(config))
    file = tmp_path / "mine.py"
    register = "register_family('narrow_of_mine', get_family('plain3'))"
    file.write_text(
        "from autogrow_jax.config import default_config\n"
        "from autogrow_jax.models import get_family, register_family\n"
        f"{register}\ndef get_config():\n    return default_config()\n"
    )
    try:
        for command in ("predict", "evaluate", "export"):
            more = {"predict": [str(image)], "export": ["--to=npz", f"--output={tmp_path}"]}
            arguments = [command, f"--workdir={copy}", *more.get(command, [])]
            assert cli.main(arguments) == 1
            told = capsys.readouterr().err
            assert "family is 'narrow_of_mine'; Known: " in told and "--config=FILE" in told
            assert cli.main([*arguments, f"--config={tmp_path / 'none.py'}"]) == 1
            assert "no config file" in capsys.readouterr().err
        # A page is drawn all the same, of what is known without.
        assert cli.main(["report", str(copy)]) == 0
        told = html.unescape((copy / "report.html").read_text())
        assert "FLOPs an image" not in told
        assert "cannot be counted: config.model.family is 'narrow_of_mine'" in told
        assert "--config=FILE" in told
        capsys.readouterr()
        assert predict(copy, image, "--format=csv", f"--config={file}") == 0
        assert capsys.readouterr().out == expected
        FAMILIES.pop("narrow_of_mine")
        assert cli.main(["report", str(copy), f"--config={file}"]) == 0
        assert "FLOPs an image" in (copy / "report.html").read_text()
    finally:
        FAMILIES.pop("narrow_of_mine", None)


def test_no_more_than_a_batch_of_files_is_in_memory(shapes, monkeypatch):
    workdir, _ = shapes
    loaded, taken = load(workdir), 0
    image = next((workdir.parent / "pictures" / "test" / "ring").iterdir())

    def files():
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield image

    found = loaded.predict_files(files(), batch_size=4)
    next(found)
    assert taken == 4


def test_predict_refuses_what_it_cannot_do(shapes, tmp_path, capsys):
    workdir, _ = shapes
    assert predict(workdir, "a.png", "--top=0") == 2
    assert "--top is 0; it takes a whole number from 1" in capsys.readouterr().err
    assert predict(workdir, "a.png", "--output=/dev/null/found.csv") == 1
    assert "cannot write /dev/null/found.csv" in capsys.readouterr().err
    assert predict(tmp_path, "a.png") == 1
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.png", "photo", "set.npz"])
def test_no_answer_is_written_over_an_image_or_data(shapes, tmp_path, capsys, name):
    """As where the shell made two images of --output *.png."""
    workdir, _ = shapes
    image = next((workdir.parent / "pictures" / "test").rglob("*.*"))
    there = tmp_path / name
    there.write_bytes(image.read_bytes())
    assert predict(workdir, image, f"--output={there}", "--format=csv") == 1
    assert "called like images or data; name a .csv" in capsys.readouterr().err
    assert there.read_bytes() == image.read_bytes()


def test_what_is_no_plain_file_is_written_to_as_it_is(shapes, tmp_path, monkeypatch, capsys):
    workdir, _ = shapes
    image = next((workdir.parent / "pictures" / "test").rglob("*.*"))
    link, target = tmp_path / "link.csv", tmp_path / "target.csv"
    link.symlink_to(target)
    assert predict(workdir, image, f"--output={link}") == 0
    assert link.is_symlink() and len(rows(target.read_text())) == 1
    # What the link leads to stays whole where nothing takes its place.
    assert predict(workdir, tmp_path / "gone.png", f"--output={link}") == 1
    assert link.is_symlink() and len(rows(target.read_text())) == 1
    assert predict(workdir, image, "--output=/dev/null", "--format=csv") == 0
    assert Path("/dev/null").is_char_device()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert predict(workdir, image, "--output=~/home.csv") == 0
    assert len(rows((tmp_path / "home.csv").read_text())) == 1
    capsys.readouterr()
    for command in ("predict", "evaluate"):
        images = [str(image)] * (command == "predict")
        given = [command, f"--workdir={workdir}", *images, f"--output={tmp_path}"]
        assert cli.main(given) == 1
        assert f"{tmp_path}, a folder; name a file in it" in capsys.readouterr().err


def test_names_that_no_path_can_have_are_told(shapes, tmp_path, monkeypatch, capsys):
    workdir, _ = shapes
    image = next((workdir.parent / "pictures" / "test").rglob("*.*"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(image, "~$photo.jpg")  # As another program locks a file.
    assert predict(workdir, "~$photo.jpg", "x" * 300) == 1
    out, err = capsys.readouterr()
    assert "~$photo.jpg" in out and "passed over: " + "x" * 300 in err
    assert cli.main(["evaluate", f"--workdir={workdir}", "--data=~nosuchuser/x"]) == 1
    assert "'~nosuchuser/x' cannot be a path here" in capsys.readouterr().err


def test_a_set_of_a_known_name_is_no_folder_of_that_name(shapes, tmp_path, monkeypatch, capsys):
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    given = ["evaluate", f"--workdir={shapes[0]}", "--data-dir=."]
    assert cli.main([*given, "--data=mnist"]) == 1
    assert "class folder" not in capsys.readouterr().err
    assert cli.main([*given, "--data=./mnist"]) == 1
    assert "class folder" in capsys.readouterr().err


def test_evaluate_takes_the_runs_own_data_or_a_folder(shapes, tmp_path, capsys):
    workdir, result = shapes
    assert cli.main(["evaluate", f"--workdir={workdir}"]) == 0
    out = capsys.readouterr().out
    assert "evaluated on its own data" in out
    assert f"{result.test_accuracy:.2f} %" in out
    draw_shapes(tmp_path / "others", 1, seed=3)
    cache = f"--config.data.cache_dir={tmp_path / 'cache'}"
    assert (
        cli.main(["evaluate", f"--workdir={workdir}", f"--data={tmp_path / 'others'}", cache]) == 0
    )
    assert f"evaluated on 3 images of {tmp_path / 'others'}" in capsys.readouterr().out
    assert cli.main(["evaluate", f"--workdir={workdir}", "--data=others.npz"]) == 1
    assert "others.npz: no such file" in capsys.readouterr().err
