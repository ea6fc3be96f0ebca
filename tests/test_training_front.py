"""The front of whole runs: what is trained, told, recommended, saved; stopping changes nothing."""

import json
import math
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from PIL import Image
from stand_ins import StopAt, Told, tiny_config, untimed_lines

from autogrow_jax import cli
from autogrow_jax.build import load_data, make_network, resolve
from autogrow_jax.errors import UserError
from autogrow_jax.halving import MOST, find_next
from autogrow_jax.models import estimate_cost, num_params
from autogrow_jax.reporting import QuietReporter, Workdir
from autogrow_jax.reporting.metrics import best_accuracy, growth_events, path_to, read
from autogrow_jax.reporting.numbers import format_depths
from autogrow_jax.reporting.result import format_result
from autogrow_jax.saving.checkpoint import CheckpointStore, evaluated_arrays, rebuild
from autogrow_jax.training import load, run
from autogrow_jax.training.loading import read_candidate
from autogrow_jax.training.snapshots import read_snapshot, snapshot_files


def _config(**changes):
    """Grows a stage after each of seven epochs, past the capacity of 2; four for each net."""
    own = {
        "data.fraction": 0.3,
        "growth.max_epochs": 7,
        "growth.capacity": 2,
        "optimizer.learning_rate": 0.03,
        "finetune.epochs": 4,
        "finetune.front": True,
        "finetune.perturb": 0.5,
    }
    return tiny_config(**own | changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir, reporter = tmp_path_factory.mktemp("run"), Told()
    return workdir, run(_config(), workdir, reporter=reporter), reporter.messages


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same growth, after which the last net is fine-tuned alone."""
    workdir = tmp_path_factory.mktemp("alone")
    return workdir, run(_config(**{"finetune.front": False}), workdir, reporter=QuietReporter())


def _front(content):
    return [{k: v for k, v in net.items() if k != "milliseconds"} for net in content["front"]]


def _flops(depths):
    network = make_network(resolve(_config()), 10, 1, depths)
    return estimate_cost(network, (8, 8, 1)).flops


def test_the_result_has_the_front_and_the_rest_is_of_the_recommended_net(undisturbed):
    workdir, result, _ = undisturbed
    content, lines = json.loads((workdir / "result.json").read_text()), untimed_lines(workdir)
    front = content["front"]
    depths = [net["depths"] for net in front]
    assert (depths[0], depths[-1]) == ([1, 1, 1], [4, 3, 3])
    assert 3 <= len(front) <= MOST
    assert [net["flops"] for net in front] == [_flops(d) for d in depths]
    assert depths == sorted(depths, key=_flops)
    images = content["validation_examples"]
    for place, net in enumerate(front):
        own = [line for line in lines if line.get("candidate") == place]
        assert {tuple(line["depths"]) for line in own} == {tuple(net["depths"])}
        assert len(own) == net["finetune_epochs"]
        assert net["stopped"] == (len(own) < 4)
        assert net["validation_accuracy"] == own[-1]["validation_accuracy"]
        right = net["validation_accuracy"] / 100 * images + 2  # Two more, and two wrong ones.
        error = 100 * math.sqrt(right * (images + 4 - right) / (images + 4) ** 3)
        assert net["standard_error"] == pytest.approx(error)
        assert net["milliseconds"] > 0
        assert net["growth_epochs"] == 1 + max(
            (line["epoch"] for line in lines[:7] if line["depths"] == net["depths"]),
            default=6,  # Grown when growth ended.
        )
    assert content["perturbed"] == 0.5
    assert content["recommended"] == content["depths"] == list(result.depths)
    (chosen,) = (net for net in front if net["depths"] == content["recommended"])
    assert (content["num_params"], chosen["stopped"]) == (chosen["num_params"], False)
    assert num_params(result.variables) == content["num_params"]
    assert result.growth == () or result.growth[-1]["depths"] == content["depths"]
    path = path_to(lines, content["depths"])
    assert content["best_validation_accuracy"] == best_accuracy(path)
    assert content["epochs"] == len(lines) == lines[-1]["epoch"] + 1
    assert result.front == front


def test_the_recommended_net_is_the_cheapest_within_a_standard_error_of_the_best_score(undisturbed):
    """Recomputed from what the candidates predict of validation images, calibrated on these."""
    workdir, result, _ = undisturbed
    validation = load_data(resolve(_config())).validation
    truth = np.eye(10)[validation.labels]
    scores = []
    for net in result.front:
        chances = load(workdir, depths=net["depths"]).predict(np.asarray(validation.images))
        tried = [chances ** (1 / t) for t in np.geomspace(0.1, 20, 2000)]
        tried = [each / each.sum(1, keepdims=True) for each in tried]
        calibrated = max(tried, key=lambda each: np.log(each[truth == 1]).mean())
        scores.append(((calibrated - truth) ** 2).sum(1))
    best, expected = min(scores, key=np.mean), []
    for net, score in zip(result.front, scores, strict=True):
        behind, images = (score - best).mean(), len(truth)
        error = math.sqrt(((score - best - behind) ** 2).sum() + 4) / images
        assert net["brier"] == pytest.approx(score.mean(), rel=1e-2)
        assert net["brier_behind"] == pytest.approx(behind, rel=1e-2, abs=1e-3)
        assert net["brier_error"] == pytest.approx(error, rel=1e-2)
        if behind <= error:
            expected.append(net["depths"])
    assert list(result.more["recommended"]) == list(expected[0])


def test_the_lines_are_those_that_halving_asks_for(undisturbed):
    workdir, result, messages = undisturbed
    curves = [[] for _ in result.front]
    for line in untimed_lines(workdir)[7:]:
        assert line["phase"] == "finetune"
        following, stopped = find_next(curves, 4)
        if following is None:  # One that was stopped is taken up, as it would be recommended.
            assert line["candidate"] in {stop.place for stop in stopped}
            assert len(curves[line["candidate"]]) < 4
        else:
            assert following == line["candidate"]
        curves[line["candidate"]].append(line["validation_accuracy"])
    last, stopped = find_next(curves, 4)
    assert last is None and stopped, "none was stopped: this run tests too little"
    assert [net["stopped"] for net in result.front] == [len(curve) < 4 for curve in curves]
    assert sum("is stopped after" in text for text in messages) == len(stopped)


def test_growth_and_front_cost_at_most_twice_growth_and_one_fine_tuning(undisturbed, alone):
    """Counted over the epochs of both runs, and were none stopped."""
    spent, before = (
        sum(_flops(line["depths"]) for line in untimed_lines(workdir))
        for workdir in (undisturbed[0], alone[0])
    )
    assert before < spent <= 2 * before
    grown = sum(_flops(line["depths"]) for line in untimed_lines(alone[0])[:7])
    assert grown + 4 * sum(net["flops"] for net in undisturbed[1].front) <= 2 * before


def test_the_last_net_is_trained_as_it_is_without_a_front(undisturbed, alone):
    """Growth too: the same draws, to the last digit."""
    workdir, result, _ = undisturbed
    lines, plain = untimed_lines(workdir), untimed_lines(alone[0])
    assert lines[:7] == plain[:7]
    own = [line for line in lines if line.get("candidate") == len(result.front) - 1]
    for line, other in zip(own, plain[7:], strict=False):
        place = {"epoch": other["epoch"]}
        left = {k: v for k, v in line.items() if k != "candidate"}
        assert left | place == other


def test_without_a_front_nothing_of_it_is_left(alone):
    workdir, result = alone
    content = json.loads((workdir / "result.json").read_text())
    assert not {"front", "recommended"} & content.keys()
    assert not (workdir / "candidates").exists()
    assert not any("candidate" in line for line in untimed_lines(workdir))
    assert result.front == []


def test_growths_are_not_the_changes_between_candidates(undisturbed, alone):
    events = growth_events(untimed_lines(undisturbed[0]))
    assert events == growth_events(untimed_lines(alone[0])) == list(alone[1].growth)


def test_each_candidate_can_be_loaded_and_is_as_good_as_the_front_says(undisturbed):
    workdir, result, _ = undisturbed
    validation = load_data(resolve(_config())).validation
    for net in result.front:
        saved = read_candidate(Workdir(workdir), net["depths"])
        assert saved.memory["depths"] == saved.memory["evaluated_depths"] == net["depths"]
        loaded = load(workdir, depths=net["depths"])
        assert loaded.depths == tuple(net["depths"])
        evaluated = rebuild(evaluated_arrays(saved.arrays), loaded.variables)
        jax.tree.map(np.testing.assert_array_equal, loaded.variables, evaluated)
        right = np.argmax(loaded.predict(validation.images), -1) == validation.labels
        assert 100 * right.mean() == pytest.approx(net["validation_accuracy"], abs=1e-5)
    files = list((workdir / "candidates").iterdir())
    assert len(files) == len(result.front)
    with pytest.raises(UserError, match=r"no candidate of depths 9-9-9; it has 1-1-1, "):
        load(workdir, depths=(9, 9, 9))


def test_a_net_that_is_training_is_loaded_as_the_newest_checkpoint_has_it(tmp_path):
    """In its first turn there is no other."""
    with pytest.raises(KeyboardInterrupt):
        run(_config(), tmp_path, reporter=StopAt(9))
    newest = load(tmp_path)
    assert newest.epoch == 9 and read(tmp_path / "metrics.jsonl")[8]["phase"] == "finetune"
    asked = load(tmp_path, depths=newest.depths)
    assert asked.epoch == 9
    jax.tree.map(np.testing.assert_array_equal, asked.variables, newest.variables)


def test_of_a_nets_file_and_the_checkpoint_the_newer_is_loaded(tmp_path):
    """It was put down after the checkpoint that still holds it."""
    changes = {"checkpoint.every": 9, "checkpoint.keep": 1, "finetune.epochs": 3}
    with pytest.raises(KeyboardInterrupt):
        run(_config(**changes), tmp_path, reporter=StopAt(11))
    newest, lines = load(tmp_path), read(tmp_path / "metrics.jsonl")
    own = [line["epoch"] + 1 for line in lines if tuple(line["depths"]) == newest.depths]
    assert newest.epoch == 9 and own[-1] in (10, 11)
    loaded = load(tmp_path, depths=newest.depths)
    assert loaded.epoch == own[-1]


def test_a_net_whose_cost_nobody_can_count_is_refused_before_it_trains(tmp_path, monkeypatch):
    problem = UserError("a block's multiply-adds cannot be counted")
    monkeypatch.setattr("autogrow_jax.training.front.estimate_cost", Mock(side_effect=problem))
    with pytest.raises(UserError, match=r"cannot be counted; or set config\.finetune\.front=False"):
        run(_config(), tmp_path, reporter=QuietReporter())
    assert not (tmp_path / "metrics.jsonl").exists()


def test_the_last_snapshot_of_the_recommended_net_is_what_the_run_ends_with(tmp_path):
    result = run(_config(**{"snapshots.every": 100}), tmp_path, reporter=QuietReporter())
    first, last = map(read_snapshot, snapshot_files(tmp_path / "snapshots"))
    lines = read(tmp_path / "metrics.jsonl")
    own = [line for line in lines if line["depths"] == list(result.depths)]
    assert (first.epoch, last.epoch) == (0, own[-1]["epoch"] + 1)
    assert last.depths == result.depths
    assert lines[-1] != own[-1]  # Another one was trained last.
    jax.tree.map(np.testing.assert_array_equal, last.variables, result.variables)


def test_the_commands_take_any_net_of_the_front(undisturbed, tmp_path, capsys):
    workdir, result, _ = undisturbed
    (other,) = (net["depths"] for net in result.front[:1])
    assert tuple(other) != result.depths
    image = np.asarray(load_data(resolve(_config())).test.images)[0]
    Image.fromarray(image[..., 0]).save(tmp_path / "one.png")
    given = [f"--workdir={workdir}", f"--depths={format_depths(other)}"]
    assert cli.main(["predict", *given, str(tmp_path / "one.png"), "--format=json"]) == 0
    ((told,),) = (json.loads(capsys.readouterr().out),)
    expected = load(workdir, depths=other).predict(image[None]).max()
    assert told["probability"] == pytest.approx(expected, abs=1e-4)
    assert cli.main(["export", *given, "--to=npz", f"--output={tmp_path}/net.npz"]) == 0
    assert f"plain3 {format_depths(other)} after" in capsys.readouterr().out
    assert cli.main(["predict", given[0], "--depths=9-9-9", str(tmp_path)]) == 1
    assert "no candidate of depths 9-9-9; it has 1-1-1" in capsys.readouterr().err
    assert cli.main(["predict", given[0], "--depths=deep", str(tmp_path)]) == 2
    assert "--depths: it takes depths such as 2-1-1, not 'deep'" in capsys.readouterr().err


def test_what_is_perturbed_is_not_what_is_kept(tmp_path, alone):
    """The checkpoint at the end of growth holds the net that was evaluated, and so do files."""
    told = Told()

    class Stop(StopAt):
        message = told.message

    with pytest.raises(KeyboardInterrupt):
        run(_config(), tmp_path, reporter=Stop(7))
    validation = load_data(resolve(_config())).validation
    kept, (line, first) = load(tmp_path), untimed_lines(tmp_path)[6:8]
    right = 100 * np.mean(np.argmax(kept.predict(validation.images), -1) == validation.labels)
    assert right == pytest.approx(line["validation_accuracy"], abs=1e-5)
    assert any("from weights moved by 0.5 towards fresh ones" in text for text in told.messages)
    still = tmp_path / "still"
    with pytest.raises(KeyboardInterrupt):
        run(_config(**{"finetune.perturb": 0.0}), still, reporter=StopAt(7))
    lines = untimed_lines(still)
    assert lines[:7] == untimed_lines(tmp_path)[:7] and lines[7] != first


def test_the_newest_checkpoint_is_the_recommended_net(undisturbed):
    workdir, result, _ = undisturbed
    saved = _newest(workdir)
    assert saved.memory["depths"] == list(result.depths)
    candidate = read_candidate(Workdir(workdir), result.depths)
    _assert_equal(saved.arrays, candidate.arrays)
    evaluated = run(_config(mode="evaluate"), workdir, reporter=QuietReporter())
    assert (evaluated.depths, evaluated.test_accuracy) == (result.depths, result.test_accuracy)
    again = run(_config(), workdir, reporter=QuietReporter())
    assert again.front == result.front
    jax.tree.map(np.testing.assert_array_equal, again.variables, result.variables)


def _newest(workdir):
    store = CheckpointStore(workdir / "checkpoints", 2)
    try:
        return store.read(store.latest())
    finally:
        store.close()


def _assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def _assert_same_run(workdir, undisturbed):
    expected, result, _ = undisturbed
    assert untimed_lines(workdir) == untimed_lines(expected)
    content = json.loads((workdir / "result.json").read_text())
    assert _front(content) == _front(result.more)
    kept = ("depths", "recommended", "test_accuracy", "best_validation_accuracy", "growth")
    theirs = json.loads((expected / "result.json").read_text())
    assert {k: content[k] for k in kept} == {k: theirs[k] for k in kept}
    _assert_equal(_newest(workdir).arrays, _newest(expected).arrays)
    names = [sorted(p.name for p in (w / "candidates").iterdir()) for w in (workdir, expected)]
    assert names[0] == names[1]
    for net in result.front:
        ours, other = (read_candidate(Workdir(w), net["depths"]) for w in (workdir, expected))
        _assert_equal(ours.arrays, other.arrays)


@pytest.mark.slow
def test_stopped_after_every_epoch_of_the_front_it_ends_as_if_never_stopped(undisturbed, tmp_path):
    """One start after the other; each trains the epoch again at which the one before stopped."""
    epochs = undisturbed[1].epochs
    for epoch in range(2, epochs):
        reporter = StopAt(epoch)
        with pytest.raises(KeyboardInterrupt):
            run(_config(), tmp_path, reporter=reporter)
        assert reporter.resumed_after == (0 if epoch == 2 else epoch - 1)
    run(_config(), tmp_path, reporter=QuietReporter())
    _assert_same_run(tmp_path, undisturbed)


@pytest.mark.parametrize("epoch", [9, pytest.param(14, marks=pytest.mark.slow)])
def test_resumed_from_a_checkpoint_some_epochs_back_it_ends_the_same(undisturbed, tmp_path, epoch):
    changes = {"checkpoint.every": 5, "checkpoint.keep": 1}
    with pytest.raises(KeyboardInterrupt):
        run(_config(**changes), tmp_path, reporter=StopAt(epoch))
    run(_config(**changes), tmp_path, reporter=QuietReporter())
    _assert_same_run(tmp_path, undisturbed)


def test_a_candidate_whose_file_is_gone_is_named(undisturbed, tmp_path):
    epochs = undisturbed[1].epochs
    with pytest.raises(KeyboardInterrupt):
        run(_config(), tmp_path, reporter=StopAt(8))
    for path in (tmp_path / "candidates").glob("1-1-1.*"):
        path.write_bytes(b"PK")
    assert epochs > 9
    with pytest.raises(UserError, match=r"1-1-1\.000001\.npz, .*is missing or damaged"):
        run(_config(), tmp_path, reporter=QuietReporter())


@pytest.mark.slow
def test_the_last_net_is_recommended_where_that_is_asked_for(tmp_path, alone):
    changes = {"finetune.choose": "last", "data.validation": "test"}
    told = Told()
    result = run(_config(**changes), tmp_path, reporter=told)
    assert list(result.depths) == result.front[-1]["depths"]
    assert not result.front[-1]["stopped"]
    assert len(result.growth) == len(growth_events(untimed_lines(tmp_path)))
    # Steered by the test set, that is said.
    assert any("the test set chooses among them" in text for text in told.messages)


@pytest.mark.slow
def test_a_limit_of_latency_that_none_keeps_to_leaves_the_fastest(tmp_path):
    told = Told()
    result = run(_config(**{"finetune.max_latency": 1e-9}), tmp_path, reporter=told)
    fastest = min(result.front, key=lambda net: net["milliseconds"])
    assert (list(result.depths), fastest["stopped"]) == (fastest["depths"], False)
    assert any("max_latency=1e-09 ms" in text for text in told.messages)


@pytest.mark.slow
def test_lookahead_has_a_front_of_nets_that_were_kept(tmp_path):
    changes = {
        "growth.policy": "lookahead",
        "growth.interval": 2,
        "growth.max_epochs": 10,
        "finetune.epochs": 2,
    }
    result = run(_config(**changes), tmp_path, reporter=QuietReporter())
    lines = untimed_lines(tmp_path)
    kept = [[1, 1, 1], *(event["depths"] for event in growth_events(lines))]
    assert [net["depths"] for net in result.front] == [d for d in kept if d in _depths(result)]
    assert _depths(result)[0] == [1, 1, 1] and _depths(result)[-1] == kept[-1]
    assert len({line["candidate"] for line in lines if "candidate" in line}) == len(result.front)


def _depths(result):
    return [net["depths"] for net in result.front]


def test_a_net_that_never_grew_is_a_front_of_one(tmp_path):
    result = run(_config(**{"growth.max_depths": (1,)}), tmp_path, reporter=QuietReporter())
    (net,) = result.front
    assert (net["depths"], net["finetune_epochs"], net["stopped"]) == ([1, 1, 1], 4, False)


def test_without_fine_tuning_there_is_no_front(tmp_path):
    result = run(_config(**{"finetune.epochs": 0}), tmp_path, reporter=QuietReporter())
    assert result.front == [] and result.epochs == 7


def test_the_terminal_shows_the_front(undisturbed):
    workdir, result, _ = undisturbed
    text = format_result(json.loads((workdir / "result.json").read_text()))
    for net in result.front:
        name = "-".join(map(str, net["depths"]))
        line = next(x for x in text.splitlines() if f" {name}" in x and " ± " in x)
        assert f"{net['validation_accuracy']:.2f} ± {net['standard_error']:.2f}" in line
        assert f" {net['brier_behind']:.4f} ± {net['brier_error']:.4f} " in line
        assert f"{net['num_params']:,}" in line
        assert (f"{name}* " in line) == (net["depths"] == list(result.depths))
        assert ("stopped after" in line) == net["stopped"]


@pytest.mark.parametrize("key, value", [("choose", "best"), ("max_latency", 2.0)])
def test_without_a_front_there_is_nothing_to_choose_from(key, value):
    with pytest.raises(UserError, match=rf"config\.finetune\.{key} is {value}.*front is False"):
        resolve(_config(**{"finetune.front": False, f"finetune.{key}": value}))
