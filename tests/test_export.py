"""Nets in the files of other programs: each is opened there and gives the same probabilities."""

import json
import subprocess
import sys
from importlib.util import find_spec

import jax
import numpy as np
import pytest
from stand_ins import train_on_shapes

from autogrow_jax import cli
from autogrow_jax.data import Preprocessing
from autogrow_jax.errors import UserError
from autogrow_jax.interop.export import FORMATS, Net
from autogrow_jax.models import Family, blocks, build_network
from autogrow_jax.training import load

SIZES = {"PlainBlock": (7, 9, 1), "BottleneckBlock": (33, 40, 3)}


def make_net(block, stem="small"):
    """A net of random weights and statistics, as small as they get, for oblong images."""
    batch_norm = block is not blocks.PlainBlockNoBN
    family = Family(block, (4, 8), 4, 0.1, block is not blocks.PlainBlock, "", batch_norm, "mine")
    height, width, channels = SIZES.get(block.__name__, (8, 6, 3))
    network = build_network(family, (3, 1), 3, channels, stem=stem)
    images = np.zeros((1, height, width, channels), np.float32)
    random = np.random.default_rng(0)
    like = jax.eval_shape(network.init, jax.random.key(0), images)

    def draw(path, leaf):
        low, high = (0.5, 1.5) if path[-1].key in ("var", "scale") else (-0.5, 0.5)
        return random.uniform(low, high, leaf.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, like)
    preprocessing = Preprocessing((0.4,) * channels, (0.3,) * channels, 0, False)
    names = ("cat", "dog, big", "Müll")
    return Net(network, variables, preprocessing, names, (height, width, channels))


def some_images(net):
    return np.random.default_rng(1).integers(0, 256, (5, *net.image_shape), np.uint8)


def skip_unless_installed(form):
    for package in form.needs:
        pytest.importorskip(package)


@pytest.mark.parametrize(
    "block, stem",
    [
        (blocks.PlainBlock, "small"),
        (blocks.PlainBlockNoBN, "small"),
        (blocks.BasicBlock, "small"),
        (blocks.SwitchBlock, "small"),
        (blocks.BottleneckBlock, "imagenet"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_every_block_computes_the_same_elsewhere(block, stem, to, tmp_path):
    form = FORMATS[to]
    skip_unless_installed(form)
    net = make_net(block, stem)
    images, path = some_images(net), tmp_path / f"net{form.suffix}"
    form.write(net, path)
    predict, expected = form.open(net, path), net.predict()(images)
    assert 0.01 < expected.min() < expected.max() < 0.99
    np.testing.assert_allclose(predict(images), expected, atol=1e-5)
    np.testing.assert_allclose(predict(images[:1]), expected[:1], atol=1e-5)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return train_on_shapes(tmp_path_factory.mktemp("shapes"))[0]


@pytest.mark.parametrize("to", FORMATS)
def test_a_runs_net_is_written_and_tried_on_its_own_test_images(shapes, tmp_path, capsys, to):
    form = FORMATS[to]
    skip_unless_installed(form)
    output = tmp_path / "new" / f"net{form.suffix}"
    assert cli.main(["export", f"--workdir={shapes}", f"--to={to}", f"--output={output}"]) == 0
    out = capsys.readouterr().out
    in_torch = to in ("torch", "safetensors") and find_spec("torch")
    program = "onnxruntime" if to == "onnx" else "torch" if in_torch else "jax"
    assert f"compared on 15 test images of the run, by {program} " in out
    assert "ms for 64 at once" in out
    shape = "[N, 3, 16, 16]" if to in ("torch", "safetensors") else "[N, 16, 16, 3]"
    assert f"takes images {shape}, pixels 0..255, and knows 3 classes" in out
    assert f"wrote {output}, {output.stat().st_size:,} bytes" in out
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in output.parent.iterdir())
    beside = {"torch": {"autogrow_network.py"}, "safetensors": {"autogrow_network.py"}}
    beside["stablehlo"] = {"net.stablehlo.json"}
    assert {path.name for path in output.parent.iterdir()} == {output.name} | beside.get(to, set())


def test_the_pytorch_net_needs_torch_alone_and_can_be_trained(shapes, tmp_path):
    pytest.importorskip("torch")
    assert cli.main(["export", f"--workdir={shapes}", "--to=torch", f"--output={tmp_path}"]) == 0
    loaded = load(shapes)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    np.save(tmp_path / "images.npy", images.transpose(0, 3, 1, 2))
    code = (
        "import sys, numpy, torch\n"
        "from autogrow_network import load\n"
        "net = load('run.pt'); images = torch.from_numpy(numpy.load('images.npy'))\n"
        "assert net.class_names == ['circle', 'ring', 'square'] and net.size == [16, 16]\n"
        "numpy.save('found.npy', net.probabilities(images).numpy())\n"
        "net.train()(images).sum().backward()\n"
        "assert net.layer3[2].conv1.weight.grad.abs().sum() > 0\n"
        "sys.exit('jax' in sys.modules or 'autogrow_jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, loaded.predict(images), atol=1e-5)


def test_an_onnx_net_says_what_it_knows(tmp_path):
    form = FORMATS["onnx"]
    skip_unless_installed(form)
    import onnxruntime

    net = make_net(blocks.PlainBlock)
    form.write(net, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    told = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(text) for name, text in told.items()} == net.describe()
    (images,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(uint8)", [7, 9, 1])
    assert (probabilities.name, probabilities.shape[1:]) == ("probabilities", [3])


def test_a_net_computes_in_float32_elsewhere():
    net = make_net(blocks.PlainBlock)
    options = net.network.options._replace(dtype=np.dtype("bfloat16"))
    coarse = net._replace(network=net.network.clone(options=options))
    images = some_images(net)
    np.testing.assert_array_equal(coarse.predict()(images), net.predict()(images))


def test_a_block_of_ones_own_is_refused_by_pytorch_and_taken_by_the_others(tmp_path):
    class Mine(blocks.PlainBlock):
        pass

    net = make_net(Mine)
    for to in ("torch", "safetensors"):
        pytest.importorskip(to)
        with pytest.raises(UserError, match="'mine' has blocks of its own"):
            FORMATS[to].write(net, tmp_path / "net.pt")
    form = FORMATS["npz"]
    form.write(net, tmp_path / "net.npz")
    images = some_images(net)
    predict = form.open(net, tmp_path / "net.npz")
    np.testing.assert_array_equal(predict(images), net.predict()(images))
    with np.load(tmp_path / "net.npz") as file:
        assert file["class_names"].tolist() == list(net.class_names)
        assert file["params/stage0/rest/conv1/kernel"].shape == (2, 3, 3, 4, 4)


def test_what_differs_there_is_not_kept(shapes, tmp_path, capsys, monkeypatch):
    wrong = FORMATS["npz"]._replace(open=lambda net, path: lambda x: np.full((len(x), 3), 1 / 3))
    monkeypatch.setitem(FORMATS, "npz", wrong)
    arguments = ["export", f"--workdir={shapes}", "--to=npz", f"--output={tmp_path}"]
    assert cli.main(arguments) == 1
    assert "gives other probabilities than the run's net" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_data_random_images_are_compared_and_said_so(shapes, capsys):
    pictures = shapes.parent / "pictures"
    away = pictures.rename(pictures.with_name("away"))
    try:
        assert cli.main(["export", f"--workdir={shapes}", "--to=npz"]) == 0
    finally:
        away.rename(pictures)
    out = capsys.readouterr().out
    assert "compared on 256 random images, as its own are not here (" in out
    assert "no such folder" in out
    assert (shapes / "export" / "run.npz").is_file()


def test_what_is_not_installed_is_named_with_the_way_out(shapes, capsys, monkeypatch):
    needs = FORMATS["onnx"]._replace(needs=("no_such_package",))
    monkeypatch.setitem(FORMATS, "onnx", needs)
    assert cli.main(["export", f"--workdir={shapes}", "--to=onnx"]) == 1
    said = "--to=onnx needs no_such_package: pip install 'autogrow_jax[onnx]'"
    assert said in capsys.readouterr().err
    assert cli.main(["export", f"--workdir={shapes}", "--to=npz", "--output=/dev/null/a"]) == 1
    assert "cannot write /dev/null/a/run.npz" in capsys.readouterr().err
