"""The benchmarks, at sizes at which their figures mean nothing: do they measure what they say?"""

import argparse
import importlib
import json
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autogrow_jax.data import Dataset, Preprocessing, load_dataset
from autogrow_jax.files.cache import new_entry, write_info, write_split
from autogrow_jax.files.types import make_split
from autogrow_jax.models import build_network, num_params
from autogrow_jax.models.stack import run_stack
from benchmarks import __main__ as everything
from benchmarks import (
    alone,
    formulations,
    growth_phase,
    half_size,
    inputs,
    phase_report,
    pytorch_report,
    roofline,
    scaling,
    step_times,
    xla_flags,
)
from benchmarks.convolution import Shape
from benchmarks.phases import make_record
from benchmarks.rival_stacks import run_conditional_stack
from benchmarks.step_times import DepthTime, StepTimes, weighted_median
from benchmarks.unrolled import Unrolled, unroll

DEPTHS = (2, 1, 2)


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes only when it is told to."""
    now = [0.0]
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_weighted_median_is_that_of_repeated_values():
    rng = np.random.default_rng(0)
    for _ in range(20):
        values, weights = rng.random(6), rng.integers(1, 5, 6)
        weights[0] += 1 - weights.sum() % 2  # An odd number has one middle.
        expected = np.median(np.repeat(values, weights))
        assert weighted_median(list(zip(values, weights.tolist(), strict=True))) == expected


def test_steady_step_leaves_out_waits_and_the_odd_slow_step(clock):
    times = StepTimes()
    for _ in range(2):
        clock(100)  # Before the first step of an epoch.
        for step, seconds in enumerate((2, 2, 50, 2, 2)):
            clock(seconds)
            times.tick(step)
        times.end_epoch((1, 1, 1), 5, 158.0)
    assert times.by_depth() == [DepthTime((1, 1, 1), 10, 2)]


def test_steady_step_of_an_epoch_in_one_dispatch_is_that_of_the_fastest_epoch():
    times = StepTimes()
    for seconds in (30.0, 12.0, 14.0):
        times.end_epoch((1, 1, 1), 5, seconds)
    times.end_epoch((2, 1, 1), 5, 22.0)
    assert times.by_depth(seconds_beside=2.0) == [
        DepthTime((1, 1, 1), 15, 2.0),
        DepthTime((2, 1, 1), 5, 4.0),
    ]


def _record(step=0.5, losses=(2.3, 2.2, 2.1), total=20.0):
    seconds = {"train": 10.0, "evaluate": 1.0, "compile": 4.0, "growth": 0.5, "checkpoint": 0.25}
    by_depth = [DepthTime((1, 1, 1), 8, step), DepthTime((2, 1, 1), 8, step)]
    record = make_record({**seconds, "total": total}, by_depth, 100, 3, losses)
    return {**record, "peak_memory": {"host": 2**30, "device": 0}}


def test_parts_of_a_phase_add_up_to_it():
    row = phase_report.summarise([{"ours": _record()}])["ours"]
    parts = ("steady", "waits", "evaluate", "compile", "growth", "checkpoint", "rest")
    assert sum(row[name] for name in parts) == pytest.approx(row["total"])
    assert row["overhead"] == pytest.approx(row["total"] - row["steady"] - row["evaluate"])
    assert 0 < row["share"] < row["share_with_evaluation"] < 1


def test_phases_are_compared_round_by_round(capsys):
    rounds = [
        {"ours": _record(), "unrolled": _record(2 * 0.5, total=60.0)},
        {"ours": _record(5.0, total=200.0), "unrolled": _record(10.0, total=600.0)},
    ]
    ratios = phase_report.compare(rounds)
    # Medians of each phase's own times would be blind to the slow round having slowed both.
    assert ratios["unrolled"] == {"total": 3.0, "steady": 2.0, "step": 2.0}
    phase_report.print_report(rounds, phase_report.summarise(rounds), ratios)
    printed = capsys.readouterr().out
    assert "| unrolled | " in printed and "2-1-1" in printed and "claimed 5 %" in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_params": 101}, "differ"),
        ({"depths": [{"depths": (1, 1, 1), "steps": 9, "seconds": 0.5}]}, "differ"),
        ({"losses": [2.3, 2.2, 1.9]}, "seed net"),
        ({"losses": [2.3, 2.2, float("nan")]}, "finite"),
    ],
)
def test_phases_that_did_other_work_are_not_compared(change, message):
    ours = _record()
    growth_phase.check_same_work({"ours": ours, "unrolled": _record()}, 3)
    with pytest.raises(AssertionError, match=message):
        growth_phase.check_same_work({"ours": ours, "unrolled": ours | change}, 3)


@pytest.mark.parametrize("kind", ["random", "mnist"])
def test_data_of_mnists_shape(kind, tmp_path, request):
    directory = str(request.getfixturevalue("data_dir")) if kind == "mnist" else ""
    growth_phase.write_data(tmp_path / "data.npz", 90, 8, directory)
    dataset = load_dataset(f"npz:{tmp_path / 'data.npz'}", image_size=32)
    assert dataset.image_shape == (32, 32, 1) and dataset.num_classes == 10
    parts = (dataset.train, dataset.validation, dataset.test)
    assert [len(part.labels) for part in parts] == [90, 10, 8]


@pytest.mark.parametrize("family", ["plain3", "basic3"])
def test_unrolled_network_computes_what_the_scanned_one_does(family):
    images = jax.random.uniform(jax.random.key(0), (3, 4, 4, 1))
    network, live = build_network(family, DEPTHS, image_channels=1), jnp.asarray(DEPTHS)
    shapes = jax.eval_shape(network.init, jax.random.key(1), images)
    rng = np.random.default_rng(0)
    # Running variances have to be positive.
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 0.3, leaf.shape).astype("f"), shapes)
    exact = {name: unroll(tree, DEPTHS) for name, tree in variables.items()}
    unrolled = Unrolled(DEPTHS, family)
    assert num_params(exact) == num_params(variables)

    @jax.jit
    def evaluate(variables, exact):
        return network.apply(variables, images, False), unrolled.apply(exact, images, False, live)

    ours, theirs = evaluate(variables, exact)
    assert np.std(ours) > 0
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_sources_of_inputs_can_be_loaded(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    with new_entry(tmp_path / "tfds-tiny-8") as entry:
        write_split(entry, "train", make_split(images, np.arange(40) % 2, 2, "tiny"))
        write_info(entry, ("a", "b"), source="tiny", version="1.0.0")
    with inputs.make_sources(40, 30) as made:
        sources = dict([*inputs.find_sources("", str(tmp_path)), *made])
        found = {name: load_dataset(**source) for name, source in sources.items()}
    assert list(found) == ["digits", "tfds-tiny-8, cached", "npz", "folder of PNG"]
    assert [data.image_shape[0] for data in found.values()] == [8, 8, 32, 32]
    assert len(found["folder of PNG"].class_names) == 10


def test_inputs_are_fed_from_device_and_host(tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 4, 4, 1), np.uint8)
    np.savez(tmp_path / "tiny.npz", x_train=images, y_train=np.arange(40) % 2)
    row = inputs.measure("tiny", {"name": f"npz:{tmp_path / 'tiny.npz'}"}, 8, 1, 1.0)
    assert row["images"] == 40 and row["image_shape"] == (4, 4, 1)
    assert set(row["images_per_second"]) == {"load", "load again", "device", "host"}
    assert min(row["images_per_second"].values()) > 0
    inputs.print_report([row], 8)
    assert "| tiny   |     40 | 4x4x1 |" in capsys.readouterr().out


def test_measurement_alone_says_what_it_took():
    answer = alone.find_machine()
    assert answer["versions"]["jax"] == jax.__version__
    assert answer["peak_memory"]["host"] > 2**25 and answer["peak_memory"]["device"] == 0


def test_failure_of_a_measurement_is_named(capfd):
    with pytest.raises(RuntimeError, match=r"scaling\.measure\(.*'no such family'.*code 1"):
        alone.run_alone(scaling.measure, family="no such family", depth=1, batch_size=1, steps=1)
    assert "no such family" in capfd.readouterr().err


def test_scaling_table(capsys):
    def row(depth, host):
        return {
            "family": "plain3",
            "depths": [depth] * 3,
            "remat": False,
            "num_params": 10,
            **{"step": 0.1, "trace": 1.0, "compile": 2.0},
            "program": {"arguments": 2**20, "temporary": 2**30},
            "checkpoint": {"held": 0.1, "save": 0.2, "restore": 0.3, "bytes": 2**20},
            "peak_memory": {"host": host, "device": 0},
        }

    scaling.print_report([row(1, 2**30), row(100, 23 * 2**30)], 128)
    printed = capsys.readouterr().out
    assert "| plain3 100-100-100 |    300 |" in printed and "holds: 23.0 GiB" in printed
    scaling.print_report([row(100, 25 * 2**30)], 128)
    assert "does not hold: 25.0 GiB" in capsys.readouterr().out


class _Parsed(Exception):
    pass


@pytest.mark.parametrize("name", everything.BENCHMARKS)
def test_every_benchmark_takes_the_sizes_it_is_given(name, monkeypatch, tmp_path):
    if everything.BENCHMARKS[name].needs_pytorch:
        pytest.importorskip("torch")
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self, *args):
        raise _Parsed(parse(self, *args))

    main = importlib.import_module(f"benchmarks.{name}").main
    for quick, on_cpu in ((True, True), (False, True), (False, False)):
        options = argparse.Namespace(quick=quick, data_dir="data", json=str(tmp_path))
        for command in everything.choose_commands(name, options, on_cpu):
            assert command[1:3] == ["-m", f"benchmarks.{name}"]
            with monkeypatch.context() as patched, pytest.raises(_Parsed):
                patched.setattr(argparse.ArgumentParser, "parse_args", parse_only)
                main(command[3:])


def test_without_pytorch_its_benchmark_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(everything, "find_machine", lambda: {"devices": ["cpu"]})
    monkeypatch.setattr(everything.importlib.util, "find_spec", lambda name: None)
    assert everything.main(["--only", "against_pytorch"]) == 0
    assert "pip install '.[bench]'" in capsys.readouterr().out


def test_list_names_each_benchmark(capsys):
    assert everything.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(f"python -m benchmarks.{name}\n" in printed for name in everything.BENCHMARKS)


def _pytorch_net(family, tmp_path):
    pytest.importorskip("torch")
    from benchmarks.phase_pytorch import PyTorchNet

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 8, 8, 1), np.uint8)
    part = make_split(images, np.arange(16) % 10, 10, "tiny")
    preprocessing = Preprocessing((0.0,), (1.0,), crop_padding=0, flip=False)
    names = tuple(map(str, range(10)))
    data = Dataset("tiny", part, part, part, 10, names, preprocessing, "held-out")
    return PyTorchNet(data, family, 4, tmp_path)


@pytest.mark.parametrize("family", ["plain3", "basic3"])
def test_pytorch_net_grows_with_values_and_momentum(family, tmp_path):
    net = _pytorch_net(family, tmp_path)
    net.grow((1, 1, 1))
    times = StepTimes()
    assert 1 < net.train_epoch(0, times) < 4
    before, momentum = net._net.state_dict(), len(net._optimizer.state)
    net.grow((1, 2, 1))
    network = build_network(family, (1, 2, 1), image_channels=1)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    assert net.num_params == num_params(shapes)
    assert len(net._optimizer.state) == momentum
    # A block was put in after the fifth module, whatever came later moved up by one.
    after = net._net.state_dict()
    for name, value in before.items():
        number, _, rest = name.partition(".")
        place = int(number) + (int(number) > 4)
        assert after[f"{place}.{rest}"].equal(value), name
    assert np.isfinite(net.train_epoch(1, StepTimes()))
    assert 0 <= net.evaluate() <= 100
    net.save(2, 50.0)
    assert (tmp_path / "newest.pt").exists()


@pytest.mark.parametrize("family", ["plain3", "basic3"])
def test_pytorch_net_takes_our_values_and_computes_the_same(family):
    torch = pytest.importorskip("torch")
    from benchmarks import pytorch_nets

    images = jax.random.uniform(jax.random.key(0), (3, 8, 8, 1))
    network = build_network(family, DEPTHS, image_channels=1)
    init = jax.jit(network.init, compiler_options={"xla_backend_optimization_level": 0})
    variables = jax.tree.map(np.asarray, init(jax.random.key(1), images))
    net = pytorch_nets.build_net(family, DEPTHS, image_channels=1)
    pytorch_nets.load_variables(net, variables, DEPTHS)
    net.eval()
    theirs = net(torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)).detach().numpy()
    ours = jax.jit(lambda v: network.apply(v, images, False))(variables)
    assert np.std(ours) > 0
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="fewer layers"):
        shallower = pytorch_nets.build_net(family, (2, 1, 1), image_channels=1)
        pytorch_nets.load_variables(shallower, variables, DEPTHS)


def test_work_of_a_step_is_counted_by_hand():
    # plain3 1-1-1 at 16x16: convolutions 1 -> 16 and 16 -> 16 at 16x16, 16 -> 32, 32 -> 64.
    network, batch = build_network("plain3", (1, 1, 1), image_channels=1), 5
    work = roofline.count_work(network, (16, 16, 1), batch, "evaluate")
    x = 256 + 256 * 16 + 256 * 16 + 64 * 32
    y = 256 * 16 + 256 * 16 + 64 * 32 + 16 * 64
    params = 26_394
    assert work.bytes == 4 * (batch * (x + y) + params)
    macs = 256 * 9 * (16 + 256) + 64 * 9 * 16 * 32 + 16 * 9 * 32 * 64 + 640
    assert work.flops == 2 * batch * macs
    training = roofline.count_work(network, (16, 16, 1), batch, "train")
    assert training.flops == 3 * work.flops
    assert training.bytes == 4 * (batch * (3 * x + 7 * y) + 6 * params)
    # Twice the blocks, a scan in one stage: as much again as the first of them.
    deeper = build_network("plain3", (4, 1, 1), image_channels=1)
    more = roofline.count_work(deeper, (16, 16, 1), batch, "evaluate")
    assert more.bytes - work.bytes == 4 * (batch * 3 * 2 * 256 * 16 + 3 * (9 * 256 + 32))
    # Memory or arithmetic, whichever takes longer.
    assert roofline.Work(10.0, 6.0).seconds(roofline.Limits(2.0, 5.0)) == 3.0


def test_shares_of_the_roofline_are_printed(capsys):
    def row(kind):
        return {
            **{"family": "plain3", "depths": (3, 3, 3), "dtype": "float32", "kind": kind},
            "seconds": {"ours": 0.5, "pytorch": 1.0},
            "processor_seconds": {"ours": 0.5, "pytorch": 2.0},
            "times_of_pytorch": {"ours": 0.5, "pytorch": 1.0},
            "work": {"flops": 1e9, "bytes": 1e6},
            "least_seconds": 0.25,
        }

    limits = {"float32": roofline.Limits(2e9, 3e9)}
    pytorch_report.print_report([row("train"), row("evaluate")], limits, 10)
    printed = capsys.readouterr().out
    assert "memory 2.0 GB/s, a matrix product 3 GFLOP/s" in printed
    rows = [line for line in printed.splitlines() if line.startswith("| plain3 3-3-3")]
    figures = [[float(cell) for cell in line.split("|")[2:4]] for line in rows]
    assert figures[:5] == [[20, 10], [0.5, 1], [2, 1], [50, 25], [0.25, 1]]


def test_conditional_stack_is_the_other_one():
    def block(params, stats, x):
        return jnp.tanh(x @ params["w"]), {"mean": stats["mean"] + jnp.mean(x)}

    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.standard_normal((4, 3, 3)), jnp.float32)}
    stats = {"mean": jnp.zeros((4,))}
    x = jnp.asarray(rng.standard_normal((2, 3)), jnp.float32)

    def gradient(run, depth):
        def loss(params, x):
            y, moved = run(block, params, stats, x, depth)
            return jnp.sum(y**2), (y, moved)

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)

    for depth in (0, 2, 4):
        ours = gradient(run_stack, jnp.int32(depth))
        rival = gradient(run_conditional_stack, jnp.int32(depth))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, rival)


def test_formulations_compute_the_same():
    row = formulations.measure("kernel gradient", Shape(8, 8, 5, 6), 1, 1.0)
    assert max(row["errors"].values()) < 1e-4 < min(row["milliseconds"].values())
    assert formulations.measure("forward", Shape(8, 8, 5, 6), 1, 1.0)["errors"]


def test_halves_of_images_are_means_of_four_pixels():
    image = np.arange(2 * 5, dtype=np.uint8).reshape(1, 2, 5, 1) * 10
    assert half_size.halve(image).tolist() == [[[[30], [50]]]]


@pytest.mark.slow
def test_a_whole_growth_phase(tmp_path, capsys):
    """Its own checks compare the phases."""
    out = tmp_path / "phase.json"
    sizes = "--runs ours exact unrolled --last 2 --batch 4 --steps-per-epoch 3 --interval 1"
    growth_phase.main([*shlex.split(sizes), "--json", str(out)])
    found = json.loads(out.read_text())
    assert set(found["summary"]) == {"ours", "exact", "unrolled"}
    for record in found["rounds"][0].values():
        assert [depth["steps"] for depth in record["depths"]] == [3] * 4
    counts = {name: row["compilations"] for name, row in found["summary"].items()}
    assert min(counts["unrolled"], counts["exact"]) > counts["ours"]
    assert "| unrolled | " in capsys.readouterr().out


def test_flag_is_compared_with_what_was_measured_beside_it(monkeypatch):
    seconds = iter([1.0, 10.0, 20.0, 2.0, 30.0, 3.0, 40.0, 4.0, 50.0, 60.0])

    def measure(flags, options, program):
        return {"step": next(seconds), "compile": 0.0} if flags != "fails" else None

    monkeypatch.setattr(xla_flags, "is_known", lambda flags: flags != "unknown")
    monkeypatch.setattr(xla_flags, "_measure", measure)
    flags = {"none": "", "a": "a", "b": "b", "c": "unknown", "d": "fails", "e": "e"}
    options = argparse.Namespace(programs=["padded"], rounds=2)
    found = xla_flags.measure_rounds(flags, options)
    steps = {
        cell[0]: [(own["step"], beside["step"]) for own, beside in pairs]
        for cell, pairs in found.items()
    }
    assert steps == {
        "none": [(1, 1), (2, 2), (3, 3), (4, 4)],
        "a": [(10, 1), (60, 4)],
        "b": [(20, 1), (50, 4)],
        "e": [(30, 2), (40, 3)],
    }
