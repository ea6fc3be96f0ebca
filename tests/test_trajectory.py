"""Trajectories: padding that changes nothing, the plane, the loss in it, the command."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autogrow_jax.build import load_data
from autogrow_jax.config import default_config, resolve
from autogrow_jax.errors import UserError
from autogrow_jax.models import FAMILIES, BlockOptions, Family, build_network, register_family
from autogrow_jax.models.blocks import conv
from autogrow_jax.reporting.workdir import to_json
from autogrow_jax.training.snapshots import Snapshot, write_snapshot
from autogrow_jax.trajectory.__main__ import main
from autogrow_jax.trajectory.compute import final_depths, labels, read_run
from autogrow_jax.trajectory.draw import figure
from autogrow_jax.trajectory.pad import make_pad
from autogrow_jax.trajectory.plane import (
    choose_examples,
    grid_axes,
    loss_in_plane,
    make_loss,
    principal_plane,
    random_plane,
)

_generator = np.random.default_rng(0)
IMAGES = jnp.asarray(_generator.standard_normal((6, 8, 8, 3)), jnp.float32)
OTHER_IMAGES = jnp.asarray(_generator.standard_normal((5, 8, 8, 3)) * 1.5 + 0.3, jnp.float32)
KINDS = ("plain3", "plain3_nobn", "basic3", "switch3", "bottleneck4")
NARROW = [f"narrow_{name}" for name in KINDS]


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Everything here is compiled to run once: optimising it costs more than it saves."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


class Gelu(nn.Module):
    """A block that is no identity whatever its weights are."""

    features: int
    stride: int = 1
    options: BlockOptions = BlockOptions()

    @nn.compact
    def __call__(self, x, train):
        return nn.gelu(conv(self.options, self.features, 3, self.stride, x.shape[-1], name="c")(x))


@pytest.fixture(autouse=True, scope="module")
def narrow_families():
    """Two narrow stages of each kind of block, which compile and run in a moment."""
    families = {
        f"narrow_{name}": FAMILIES[name]._replace(widths=(8, 12), stem_width=8) for name in KINDS
    }
    families["gelu"] = Family(Gelu, (8, 12), 8, 0.01, residual=False, batch_norm=False)
    for name, family in families.items():
        register_family(name, family)
    yield
    for name in families:
        del FAMILIES[name]


@functools.cache
def _shapes(network, shape):
    like = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    shapes = jax.eval_shape(lambda: network.lazy_init(jax.random.key(0), like))
    return {name: shapes[name] for name in ("params", "batch_stats") if name in shapes}


def _draw(network, seed=1, shape=(8, 8, 3)):
    """Variables drawn by NumPy, running statistics too: nothing is at its start."""
    generator = np.random.default_rng(seed)

    def draw(path, like):
        noise = generator.standard_normal(like.shape)
        if path[-1].key in ("scale", "var", "switch"):
            noise = 0.3 + np.abs(noise)
        elif len(like.shape) > 1 and path[-1].key == "kernel":
            noise = noise * (2.0 / np.prod(like.shape[-4:-1])) ** 0.5
        return noise.astype(like.dtype)

    return jax.tree_util.tree_map_with_path(draw, _shapes(network, shape))


@functools.cache
def _padded(family):
    """A 2-1 net, its variables, and what they are padded to 3-3."""
    network = build_network(family, (2, 1), num_classes=5)
    deeper = network.clone(depths=(3, 3))
    variables = _draw(network)
    padded, change = make_pad(deeper, IMAGES)(variables, network.depths)
    return network, variables, deeper, padded, change


# --- Padding.


def test_the_kinds_are_all_there_are():
    assert {FAMILIES[name].block for name in KINDS} == {
        family.block for name, family in FAMILIES.items() if name != "gelu"
    }


@pytest.mark.parametrize("family", NARROW)
def test_padding_leaves_the_logits_as_they_were(family):
    network, variables, deeper, padded, change = _padded(family)

    @functools.partial(jax.jit, static_argnums=0)
    def compute(network, variables):
        both = jnp.concatenate([IMAGES, OTHER_IMAGES])
        return network.apply(variables, both), network.apply(variables, IMAGES, train=True)

    for before, after in zip(compute(network, variables), compute(deeper, padded), strict=True):
        np.testing.assert_allclose(after, before, atol=2e-5 * float(jnp.max(jnp.abs(before))))
    assert change < 2e-5


@pytest.mark.parametrize("family", NARROW)
def test_padding_keeps_what_is_there_and_appends(family):
    _, variables, _, padded, _ = _padded(family)
    old = dict(jax.tree_util.tree_leaves_with_path(variables))
    new = dict(jax.tree_util.tree_leaves_with_path(padded))
    assert old.keys() == new.keys()
    for path, leaf in old.items():
        depth = leaf.shape[0]
        kept = new[path] if new[path].shape == leaf.shape else new[path][:depth]
        np.testing.assert_array_equal(kept, leaf)
        if new[path].shape == leaf.shape or path[0].key != "params":
            continue
        blocks = new[path][depth:]
        np.testing.assert_array_equal(blocks, np.broadcast_to(blocks[:1], blocks.shape))
        if FAMILIES[family].residual:
            assert not blocks.any()


def test_the_authors_zeros_do_not_preserve_a_plain_net():
    network, variables, deeper, padded, _ = _padded("narrow_plain3")
    before = jax.jit(network.apply)(variables, IMAGES)
    zeros = jax.tree.map(lambda a: a, padded)
    for stage, kept in (("stage0", 1), ("stage1", 0)):
        rest = zeros["params"][stage]["rest"]
        zeros["params"][stage]["rest"] = jax.tree.map(
            lambda a, kept=kept: np.concatenate([a[:kept], np.zeros_like(a[kept:])]), rest
        )
    after = jax.jit(deeper.apply)(zeros, IMAGES)
    assert jnp.max(jnp.ptp(after, axis=0)) == 0  # Constant: it does not see its input any more.
    assert jnp.max(jnp.ptp(before, axis=0)) > 0.1


def test_equal_blocks_have_equal_padding():
    _, variables, deeper, padded, _ = _padded("narrow_plain3")
    head = jax.tree.map(lambda a: a + 1, variables["params"]["head"])
    other = {**variables, "params": {**variables["params"], "head": head}}
    again, _ = make_pad(deeper, IMAGES)(other, (2, 1))
    difference = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), again, padded)
    assert {path[1].key for path, d in jax.tree_util.tree_leaves_with_path(difference) if d} == {
        "head"
    }


def test_a_block_that_cannot_be_the_identity_is_refused():
    network = build_network("gelu", (1, 1), num_classes=5)
    pad = make_pad(network.clone(depths=(2, 1)), IMAGES)
    with pytest.raises(UserError, match=r"'gelu'.*not the identity"):
        pad(_draw(network), (1, 1))


def test_a_snapshot_of_other_classes_is_refused():
    deeper = build_network("narrow_plain3", (2, 2), num_classes=5)
    other = build_network("narrow_plain3", (1, 1), num_classes=7)
    with pytest.raises(UserError, match=r"head.*other classes or channels"):
        make_pad(deeper, IMAGES)(_draw(other), (1, 1))


# --- The plane.


def _points(count, seed=0, rank=None):
    """Trees of parameters; with a rank, those of a space of so many dimensions."""
    generator = np.random.default_rng(seed)
    shapes = {"a": (4, 5), "b": {"c": (30,)}}

    def draw(_):
        return generator.standard_normal(_)

    trees = [
        jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple)) for _ in range(count)
    ]
    if rank is not None:
        mix = generator.standard_normal((count, rank))
        trees = [
            jax.tree.map(
                lambda *a, row=row: sum(w * b for w, b in zip(row, a, strict=True)), *trees[:rank]
            )
            for row in mix
        ]
    return [jax.tree.map(np.float32, tree) for tree in trees]


def _flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


def test_principal_plane_is_that_of_the_singular_values():
    points = _points(7)
    plane = principal_plane(points, 6)
    x = np.stack([_flat(p) for p in points])
    x -= x[6]
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(np.abs(plane.coordinates), np.abs(u[:, :2] * s[:2]), atol=1e-5)
    np.testing.assert_allclose(plane.explained, (s**2 / np.sum(s**2))[:2], rtol=1e-6)
    np.testing.assert_allclose(plane.distances, np.linalg.norm((u * s)[:, 2:], axis=1), atol=1e-4)
    axes = np.stack([_flat(d) for d in plane.directions])
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-6)
    np.testing.assert_allclose(x @ axes.T, plane.coordinates, atol=1e-5)
    assert plane.coordinates[0, 0] <= 0
    assert not plane.coordinates[6].any()


def test_points_of_a_plane_are_in_it():
    points = [*_points(3, seed=1), None]
    points[3] = jax.tree.map(lambda a, b, c: 2 * a - 3 * b + 2 * c, *points[:3])
    plane = principal_plane(points, 1)
    assert sum(plane.explained) == pytest.approx(1)
    np.testing.assert_allclose(plane.distances, 0, atol=1e-3)
    axes = np.stack([_flat(d) for d in plane.directions])
    for point, place in zip(points, plane.coordinates, strict=True):
        np.testing.assert_allclose(_flat(plane.center) + place @ axes, _flat(point), atol=1e-4)


@pytest.mark.parametrize("count", [2, 5])
def test_points_of_a_line_have_no_plane(count):
    first, second = _points(2)
    points = [jax.tree.map(lambda a, b, i=i: a + i * b, first, second) for i in range(count)]
    with pytest.raises(UserError, match=r"one line.*--directions=random"):
        principal_plane(points, 0)


def test_random_directions_have_the_filters_of_the_centre():
    network = build_network("narrow_basic3", (3, 2), num_classes=5)
    points = [_draw(network, seed)["params"] for seed in range(3)]
    plane = random_plane(points, 2, seed=4)
    first, second = (direction["stage0"]["rest"] for direction in plane.directions)
    kernel, center = first["conv1"]["kernel"], points[2]["stage0"]["rest"]["conv1"]["kernel"]
    norms = [np.sqrt(np.sum(np.square(a), (1, 2, 3))) for a in (kernel, center)]
    np.testing.assert_allclose(*norms, rtol=1e-5)
    assert norms[0].shape == (2, 8)  # Of each block by itself.
    assert not first["bn1"]["scale"].any() and not plane.directions[0]["head"]["bias"].any()
    assert not np.allclose(kernel, second["conv1"]["kernel"])
    again = random_plane(points, 2, seed=4)
    jax.tree.map(np.testing.assert_array_equal, again.directions, plane.directions)
    # The foot of each point: what is left is at right angles to both directions.
    axes = np.stack([_flat(d) for d in plane.directions])
    left = np.stack([_flat(p) - _flat(points[2]) for p in points]) - plane.coordinates @ axes
    np.testing.assert_allclose(left @ axes.T, 0, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(left, axis=1), plane.distances, rtol=1e-4, atol=1e-4)


# --- The loss.


@pytest.fixture(scope="module")
def digits():
    config = default_config()
    config.data.fraction = 0.2
    return load_data(resolve(config))


def test_examples_are_a_random_part_in_whole_batches(digits):
    chosen = choose_examples(digits, "train", 100, 30, seed=0)
    assert chosen.images.shape == (3, 30, 8, 8, 1)
    again = choose_examples(digits, "train", 100, 30, seed=0)
    np.testing.assert_array_equal(chosen.labels, again.labels)
    assert len(np.unique(chosen.labels)) == 10
    everything = choose_examples(digits, "validation", 10**6, 10**6, seed=0)
    labels = np.sort(everything.labels.ravel())
    np.testing.assert_array_equal(labels, np.sort(digits.validation.labels))


def test_the_loss_at_a_foot_in_the_plane_is_the_nets_own(digits):
    """Three nets of different depths lie in one plane, whatever they are."""
    examples = choose_examples(digits, "train", 40, 40, seed=0)
    deepest = build_network("narrow_plain3", (2, 2), image_channels=1)
    pad = make_pad(deepest, examples.images[0])
    points, own = [], []
    for seed, depths in enumerate([(1, 1), (2, 1), (2, 2)]):
        network = deepest.clone(depths=depths)
        variables = _draw(network, seed, (8, 8, 1))
        points.append(pad(variables, depths)[0])
        logits = jax.jit(functools.partial(network.apply, train=True))(
            variables, examples.images[0]
        )
        chosen = jax.nn.log_softmax(logits)[np.arange(40), examples.labels[0]]
        own.append(-np.mean(chosen))
    params, stats = [point["params"] for point in points], points[0]["batch_stats"]
    measure = make_loss(deepest, stats, examples)
    np.testing.assert_allclose([measure(each) for each in params], own, rtol=1e-4)
    plane = principal_plane(params, 2)
    x, y = plane.coordinates.T
    counted = []
    loss = loss_in_plane(measure, plane, x, y, counted.append)
    np.testing.assert_allclose(np.diag(loss), own, rtol=1e-3)
    assert loss.shape == (3, 3) and counted == [3, 3, 3]
    # x goes along the columns: elsewhere than on the diagonal it matters.
    (corner,) = loss_in_plane(measure, plane, x[:1], y[2:])
    np.testing.assert_allclose(corner, loss[2, :1], rtol=1e-5)


def test_the_loss_is_the_mean_over_batches(digits):
    network = build_network("narrow_plain3", (1, 1), image_channels=1)
    examples = choose_examples(digits, "train", 60, 20, seed=0)
    variables = _draw(network, 0, (8, 8, 1))

    def measure(some):
        return make_loss(network, variables["batch_stats"], some)(variables["params"])

    loss = measure(examples)
    means = [measure(jax.tree.map(lambda a, i=i: a[i : i + 1], examples)) for i in range(3)]
    assert loss == pytest.approx(np.mean(means), rel=1e-5)
    assert np.ptp(means) > 0


def test_a_grid_covers_the_paths():
    places = np.array([[0.0, 0.0], [-4.0, 0.1], [6.0, 0.4]])
    x, y = grid_axes(places, 11, margin=0.1)
    assert x[0] == pytest.approx(-5) and x[-1] == pytest.approx(7)
    assert y[0] < -0.9 and y[-1] > 1.4 and len(x) == len(y) == 11
    assert np.ptp(y) == pytest.approx(np.ptp(x) / 2)
    x, y = grid_axes(places * 1e-3, 5, least=1.0)
    assert x[0] < -1 and x[-1] > 1 and y[0] < -1 and y[-1] > 1


# --- The command.


def _workdir(path, policy="periodic", family="narrow_plain3", num_snapshots=4, seed=0, **changes):
    """What a run leaves behind, without the run: grown after epochs 2 and 4, fine-tuned from 5."""
    config = default_config()
    config.model.family = family
    config.growth.policy, config.growth.initializer = policy, "gaussian"
    config.data.fraction = 0.2
    config.update_from_flattened_dict(changes)
    path.mkdir(parents=True)
    (path / "config.json").write_text(to_json(resolve(config).to_dict()))
    course = [(1, 1), (1, 1), (2, 1), (2, 1), (2, 2), (2, 2)]
    with open(path / "metrics.jsonl", "w") as file:
        for epoch, depths in enumerate(course):
            phase = "growth" if epoch < 5 else "finetune"
            file.write(to_json({"epoch": epoch, "phase": phase, "depths": depths}) + "\n")
    for epoch in range(0, 2 * num_snapshots, 2):
        depths = course[min(max(epoch - 1, 0), len(course) - 1)]
        network = build_network(family, depths, image_channels=1)
        variables = _draw(network, seed + epoch, (8, 8, 1))
        write_snapshot(path / "snapshots", Snapshot(epoch, depths, variables))
    return path


def test_the_path_of_a_front_is_that_of_one_of_its_nets(tmp_path):
    path = _workdir(tmp_path / "a", num_snapshots=6)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    turns = [(2, 2), (1, 1), (2, 1), (2, 2), (1, 1)]
    lines = lines[:5] + [
        {"epoch": 5 + i, "phase": "finetune", "depths": d, "candidate": sum(d) - 2}
        for i, d in enumerate(turns)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(path)  # The last net's, as long as none is recommended.
    assert [snapshot.epoch for snapshot in run.snapshots] == [0, 2, 4, 6]
    assert ([event["epoch"] for event in run.growth], run.finetune) == ([2, 4], 5)
    (path / "result.json").write_text('{"recommended": [2, 1]}')
    run = read_run(path)
    assert [snapshot.epoch for snapshot in run.snapshots] == [0, 2, 4, 8]
    assert ([event["epoch"] for event in run.growth], run.finetune) == ([2], 7)


def test_the_command_draws_several_runs(tmp_path, capsys):
    runs = [_workdir(tmp_path / "a"), _workdir(tmp_path / "b", "convergent", seed=1)]
    (runs[0] / "result.json").write_text('{"perturbed": 0.5}')
    out = tmp_path / "new" / "out"
    options = ["--out", str(out), "--grid=3", "--examples=32"]
    assert main(["--runs", *map(str, runs), *options]) == 0
    printed = capsys.readouterr().out
    assert "periodic, gaussian: 4 snapshots, 2 growths to 2-2" in printed
    for name in ("png", "svg", "json"):
        assert f"trajectory.{name}" in printed
        assert (out / f"trajectory.{name}").stat().st_size > 1000
    content = json.loads((out / "trajectory.json").read_text())
    assert content["depths"] == [2, 2]
    first, second = content["runs"]
    assert [point["epoch"] for point in first["points"]] == [0, 2, 4, 6]
    assert [point["depths"] for point in first["points"]] == [[1, 1], [1, 1], [2, 1], [2, 2]]
    growth = [
        {"epoch": 2, "stage": 0, "depths": [2, 1]},
        {"epoch": 4, "stage": 1, "depths": [2, 2]},
    ]
    assert first["growth"] == second["growth"] == growth
    assert first["finetune_epoch"] == 5
    end = first["points"][-1]
    assert max(abs(end["x"]), abs(end["y"]), end["distance"]) < 1e-9
    assert second["points"][-1]["distance"] > 0
    x, y, loss = (np.array(content["grid"][name]) for name in ("x", "y", "loss"))
    assert loss.shape == (3, 3) and np.isfinite(loss).all()
    for run in content["runs"]:
        for point in run["points"]:
            assert x[0] < point["x"] < x[-1] and y[0] < point["y"] < y[-1]
    assert content["settings"]["split"] == "train" and content["settings"]["examples"] == 32
    _check_figure(content)


def _check_figure(content):
    drawing = figure(content)
    texts = [text.get_text() for text in drawing.legends[0].get_texts()]
    assert any("periodic, gaussian\n1-1 to 2-2" in text for text in texts)
    assert any("convergent, gaussian" in text for text in texts)
    panel = drawing.axes[0]
    triangles = [line for line in panel.lines if line.get_marker() == "^"]
    # Two growths a run, each halfway between the snapshots around it.
    assert sum(len(line.get_xdata()) for line in triangles) == 4
    before, after = content["runs"][0]["points"][1:3]
    assert triangles[0].get_xdata()[0] == pytest.approx((before["x"] + after["x"]) / 2)
    # One run was moved before epoch 5, so between its last two snapshots.
    (moved,) = (line for line in panel.lines if line.get_marker() == "D")
    last = [point["x"] for point in content["runs"][0]["points"][2:]]
    assert list(moved.get_xdata()) == [pytest.approx(sum(last) / 2)]
    handles = [text.get_text() for legend in drawing.legends for text in legend.get_texts()]
    assert "moved towards\nfresh weights: a jump" in handles
    assert "variance" in panel.get_xlabel()
    # A ground that is nowhere finite but at one point, and a net whose loss is not.
    content["grid"]["loss"] = [[None] * 3, [None, 0.5, None], [None] * 3]
    content["runs"][0]["points"][-1]["loss"] = None
    figure(content).savefig("/dev/null", format="png")


def test_random_directions(tmp_path):
    run = _workdir(tmp_path / "a")
    options = ["--directions=random", "--grid=3", "--examples=32", "--split=test"]
    assert main(["--runs", str(run), "--out", str(tmp_path / "out"), *options]) == 0
    content = json.loads((tmp_path / "out" / "trajectory.json").read_text())
    assert len(content["plane"]["explained"]) == 1
    assert content["grid"]["x"][0] < -1 and content["grid"]["x"][-1] > 1


def _fails(capsys, *arguments):
    assert main(arguments) == 1
    return capsys.readouterr().err


def test_mistakes_say_what_to_do(tmp_path, capsys):
    good = _workdir(tmp_path / "good")
    out = ("--out", str(tmp_path / "out"))
    none = _workdir(tmp_path / "none", num_snapshots=0)
    message = _fails(capsys, "--runs", str(good), str(none), *out)
    assert str(none) in message and "--config.snapshots.every=4" in message
    one = _workdir(tmp_path / "one", num_snapshots=1)
    assert "kept one snapshot" in _fails(capsys, "--runs", str(one), *out)
    other = _workdir(tmp_path / "other", family="narrow_basic3")
    message = _fails(capsys, "--runs", str(good), str(other), *out)
    assert "model.family is 'narrow_plain3' in the first, 'narrow_basic3'" in message
    assert "holds no run" in _fails(capsys, "--runs", str(tmp_path / "nowhere"), *out)
    assert "grid is 1" in _fails(capsys, "--runs", str(good), "--grid=1", *out)
    assert "seed is -1" in _fails(capsys, "--runs", str(good), "--seed=-1", *out)
    assert "examples is 0" in _fails(capsys, "--runs", str(good), "--examples=0", *out)
    (tmp_path / "file").touch()
    message = _fails(capsys, "--runs", str(good), "--out", str(tmp_path / "file" / "below"))
    assert "cannot write to" in message and "choose another --out" in message
    damaged = _workdir(tmp_path / "damaged")
    file = damaged / "snapshots" / "epoch_000002.npz"
    file.write_bytes(file.read_bytes()[:500])
    assert f"{file} is missing or damaged" in _fails(capsys, "--runs", str(damaged), *out)
    assert not (tmp_path / "out").exists()


def test_the_data_may_have_been_moved(tmp_path):
    workdir = _workdir(tmp_path / "run", **{"data.dir": "gone"})
    assert read_run(workdir).settings.data.dir == "gone"
    assert read_run(workdir, "here").settings.data.dir == "here"


def test_a_run_that_goes_on_is_drawn_up_to_its_last_snapshot(tmp_path):
    run = read_run(_workdir(tmp_path / "run", num_snapshots=3))
    assert [snapshot.epoch for snapshot in run.snapshots] == [0, 2, 4]
    # The growth after epoch 4 is in no snapshot yet, nor is fine-tuning.
    assert [event["epoch"] for event in run.growth] == [2] and run.finetune is None


def test_equal_policies_are_told_apart_by_their_folders(tmp_path):
    runs = [read_run(_workdir(tmp_path / name)) for name in ("a", "b")]
    runs.append(read_run(_workdir(tmp_path / "c", "convergent")))
    runs.append(read_run(_workdir(tmp_path / "d", mode="scratch")))
    assert labels(runs) == [
        "periodic, gaussian (a)",
        "periodic, gaussian (b)",
        "convergent, gaussian",
        "from scratch",
    ]
    assert final_depths(runs) == (2, 2)
    # Of a study all are called `run`.
    cells = [read_run(_workdir(tmp_path / name / "run")) for name in ("e", "f")]
    assert labels(cells) == ["periodic, gaussian (e/run)", "periodic, gaussian (f/run)"]
    assert labels(cells[:1] * 2) == ["periodic, gaussian (run)"] * 2
