"""A loss that is no longer finite: told, and on demand tried again with a smaller rate, exactly."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stand_ins import StopAt, tiny_config

from autogrow_jax.build import resolve
from autogrow_jax.errors import DivergedError, UserError
from autogrow_jax.reporting import QuietReporter, read_result
from autogrow_jax.reporting.metrics import read
from autogrow_jax.steps import Trainer
from autogrow_jax.training import run, run_seeds
from autogrow_jax.training.start import calm, go_on_if_diverged


def _config(**changes):
    own = {
        "mode": "scratch",
        "growth.interval": 3,
        "finetune.epochs": 5,
        "finetune.front": True,
        "log.report": False,
    }
    return tiny_config(**own | changes)


def _sgd(rate):
    """Descends, but for rates above 0.03, which make everything infinite."""
    growth = optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda u: u * jnp.where(rate > 0.03, jnp.inf, 1.0).astype(u.dtype), updates
        )
    )
    return optax.chain(optax.sgd(rate), growth)


_OWN = {"optimizer": _sgd, "schedule": lambda phase, epoch, length: 0.01 if epoch < 2 else 0.08}


class _Told(StopAt):
    def __init__(self, epoch=None):
        super().__init__(epoch)
        self.told = []

    def message(self, text):
        self.told.append(text)


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    """Stopped by its third epoch."""
    workdir = tmp_path_factory.mktemp("diverged")
    with pytest.raises(DivergedError, match=r"epoch 2, step \d+.*rate 0\.08, depths 1-1-1"):
        run(_config(**{"checkpoint.minutes": 1e-9}), workdir, reporter=QuietReporter(), **_OWN)
    # What was saved amid the epoch is of the rate that is too high.
    assert not (workdir / "amid_epoch.npz").exists()
    return workdir


@pytest.mark.slow
def test_a_run_that_diverged_goes_on_with_a_smaller_rate_and_says_so(diverged, tmp_path):
    assert [line["epoch"] for line in read(diverged / "metrics.jsonl")] == [0, 1]
    reporter = _Told()
    config = _config(on_divergence="restart")
    result = run(config, diverged, reporter=reporter, **_OWN)
    rates = [line["learning_rate"] for line in read(diverged / "metrics.jsonl")]
    assert rates == [0.01, 0.01, 0.02, 0.02, 0.02]
    assert [d["learning_rate"] for d in result.more["divergences"]] == [0.08, 0.04]
    assert read_result(diverged / "result.json")["divergences"][0] == {
        "epoch": 2, "depths": [1, 1, 1], "learning_rate": 0.08,
    }  # fmt: skip
    said = [line for line in reporter.told if "back to the last checkpoint" in line]
    assert "with 0.5 of the learning rate (restart 1 of at most 5)" in said[0]
    assert "with 0.25 of the learning rate (restart 2 of at most 5)" in said[1]
    assert result.seconds["total"] < 500

    # Killed after the first epoch that went well again, and before that one was saved.
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path, reporter=_Told(3), **_OWN)
    again = run(config, tmp_path, reporter=_Told(), **_OWN)
    jax.tree.map(np.testing.assert_array_equal, again.variables, result.variables)
    assert again.more["divergences"] == result.more["divergences"]


def test_it_is_not_tried_for_ever():
    told, starts = [], []

    def train(started, seconds, divergences):
        starts.append((calm(divergences), seconds))
        divergences.append({"epoch": 3})
        raise DivergedError("the loss is not finite any more: epoch 3. Lower it.")

    with pytest.raises(DivergedError, match="epoch 3"):
        go_on_if_diverged(train, 0.0, {"start": 1.0}, True, told.append)
    assert [factor for factor, _ in starts] == [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]
    assert [seconds for _, seconds in starts] == [{"start": 1.0}] + 5 * [{}]
    assert len(told) == 5


@pytest.mark.parametrize(
    "on_divergence, advice",
    [("stop", "or go on with config.on_divergence=restart."), ("restart", "restarts were of no")],
)
def test_what_is_advised_is_not_what_was_done(on_divergence, advice):
    trainer = object.__new__(Trainer)
    trainer.settings, trainer.depths = resolve(_config(on_divergence=on_divergence)), (1, 1, 1)
    trainer.steps_per_epoch = 3
    with pytest.raises(DivergedError, match=f"epoch 4, step 2 .*{advice}"):
        trainer.check_finite(4, 0.1, SimpleNamespace(bad_step=2))


def test_seeds_in_lockstep_are_not_started_again(tmp_path):
    with pytest.raises(UserError, match="on_divergence is 'restart'"):
        run_seeds(_config(on_divergence="restart"), tmp_path, 2)
