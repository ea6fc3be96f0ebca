"""Seeds in lockstep end as they do one by one."""

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from stand_ins import StopAt, tiny_config, untimed_lines

from autogrow_jax.errors import DivergedError, UserError
from autogrow_jax.growth import POLICIES, Decision, Policy, register_policy
from autogrow_jax.models import FAMILIES, Family, register_family
from autogrow_jax.models.blocks import PlainBlock
from autogrow_jax.reporting import QuietReporter
from autogrow_jax.training import run, run_seeds

pytestmark = pytest.mark.reports


def _by_seed(given):
    """Grows odd seeds by two blocks an epoch and even ones by one, for two epochs."""

    def init():
        return {"epoch": 0, "depth": 1}

    def update(state, accuracy, *, measurements=None):
        depth, epoch = state["depth"] + 1 + given.seed % 2, state["epoch"] + 1
        if epoch > 2:
            return state, Decision("finetune", (state["depth"],))
        return {"epoch": epoch, "depth": depth}, Decision("grow", (depth,))

    return Policy(init, update, (1,), "by_seed")


@pytest.fixture(scope="module", autouse=True)
def small_family():
    """One stage, as programs for several seeds take long to compile on a CPU."""
    register_family("small1", Family(PlainBlock, (8,), 8, 0.01, False))
    register_policy("by_seed", _by_seed)
    yield
    del FAMILIES["small1"], POLICIES["by_seed"]


def _config(**changes):
    """Grows so that depths and capacities differ from seed to seed."""
    own = {
        "model.family": "small1",
        "model.convolution": "xla",
        "growth.policy": "by_seed",
        "growth.interval": 3,
        "growth.capacity": 2,
        "finetune.epochs": 1,
        "optimizer.learning_rate": 0.02,
        "log.tensorboard": True,
    }
    return tiny_config(**own | changes)


def _quiet(seed):
    return QuietReporter()


@pytest.fixture(scope="module")
def lockstep(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("seeds")
    return workdir, run_seeds(_config(), workdir, 3, reporter=_quiet)


@pytest.mark.slow
def test_seeds_in_lockstep_end_as_single_runs_do(lockstep, tmp_path):
    workdir, results = lockstep
    assert [result.seed for result in results] == [0, 1, 2]
    assert [result.depths for result in results] == [(3,), (5,), (3,)]
    for seed in (0, 1):
        single = run(_config(seed=seed), tmp_path / str(seed), reporter=QuietReporter())
        result = results[seed]
        assert result.depths == single.depths
        assert result.growth == single.growth
        assert result.more["train_examples"] == single.more["train_examples"]
        pairs = zip(
            untimed_lines(workdir / f"seed{seed}"), untimed_lines(tmp_path / str(seed)), strict=True
        )
        for one, other in pairs:
            assert one["depths"] == other["depths"]
            assert one["train_loss"] == pytest.approx(other["train_loss"], rel=2e-3)
            assert one["validation_loss"] == pytest.approx(other["validation_loss"], rel=2e-3)
        for one, other in zip(
            jax.tree.leaves(result.variables), jax.tree.leaves(single.variables), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=2e-2, atol=2e-3)
        assert result.test_accuracy == pytest.approx(single.test_accuracy, abs=1)


@pytest.mark.slow
def test_each_seed_leaves_the_files_of_a_run(lockstep, tmp_path):
    workdir, _ = lockstep
    run(_config(seed=1), tmp_path, reporter=QuietReporter())
    files = {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in (workdir / "seed1").iterdir()} == files


@pytest.mark.slow
def test_stopped_seeds_go_on_where_they_were(lockstep, tmp_path):
    workdir, results = lockstep
    with pytest.raises(KeyboardInterrupt):
        run_seeds(_config(), tmp_path, 3, reporter=lambda seed: StopAt(2 if seed == 1 else 9))
    assert {len(untimed_lines(tmp_path / f"seed{s}")) for s in range(3)} <= {2, 3}
    again = run_seeds(_config(), tmp_path, 3, reporter=_quiet)
    for seed, (result, undisturbed) in enumerate(zip(again, results, strict=True)):
        assert result.depths == undisturbed.depths
        assert untimed_lines(tmp_path / f"seed{seed}") == untimed_lines(workdir / f"seed{seed}")


@pytest.mark.slow
def test_a_seed_that_fails_does_not_end_the_others(tmp_path):
    class Diverges(QuietReporter):
        def end_epoch(self, line):
            raise DivergedError("the loss is not finite any more")

    def make(seed):
        return Diverges() if seed == 7 else QuietReporter()

    with pytest.raises(DivergedError, match="seed 7: the loss is not finite"):
        run_seeds(_config(), tmp_path, [7, 8], reporter=make)
    assert (tmp_path / "seed8" / "result.json").exists()
    assert not (tmp_path / "seed7" / "result.json").exists()


def test_what_no_seed_can_do_is_raised_by_each(tmp_path, monkeypatch):
    """Such as images that are streamed; nobody waits for the others then."""
    problem = UserError("these are streamed")
    monkeypatch.setattr("autogrow_jax.steps.lockstep._Group", Mock(side_effect=problem))
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run_seeds, _config(), tmp_path, 2, reporter=_quiet)
        with pytest.raises(UserError, match="these are streamed"):
            ended.result(120)


@pytest.mark.parametrize(
    ("changes", "seeds", "message"),
    [
        ({"mode": "evaluate"}, 2, "config.mode is 'evaluate', which seeds in lockstep cannot"),
        ({"model.convolution": "native"}, 2, "config.model.convolution is 'native'"),
        ({"growth.programs": "exact"}, 2, "config.growth.programs is 'exact'"),
        ({"data.on_device": "no"}, 2, "config.data.on_device is 'no'"),
        ({"finetune.max_latency": 1.0}, 2, "config.finetune.max_latency is 1.0"),
        ({}, 0, "seeds is 0"),
        ({}, [1, 1], r"seeds is \[1, 1\]"),
    ],
)
def test_what_cannot_go_in_lockstep_is_refused(changes, seeds, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run_seeds(_config(**changes), tmp_path, seeds)
    assert list(tmp_path.iterdir()) == []
