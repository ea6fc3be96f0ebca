"""Several seeds of one config in lockstep: one program trains them all by vmap on one device.

Each seed has a thread that goes through the ordinary loop of a run, with its own policy, depths,
files and resume; depth is data, so no two need be as deep. Only where a run would train an epoch or
evaluate, a thread waits until all have come so far, and the last to come computes for all at once.
No two threads run at the same time otherwise, so nothing here is a race.
"""

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from autogrow_jax import build, hosts
from autogrow_jax.errors import UserError
from autogrow_jax.models.layers import NATIVE, XLA
from autogrow_jax.own import NOTHING, Own
from autogrow_jax.process import user_path
from autogrow_jax.reporting import Reporter, Result, SeedReporter
from autogrow_jax.settings import Config, flatten
from autogrow_jax.steps import SHARED, Lockstep, SharedFeed
from autogrow_jax.training.loop import run_as


def run_seeds(
    config: Config,
    workdir: str | os.PathLike[str],
    seeds: int | Sequence[int] = 4,
    *,
    reporter: Callable[[int], Reporter] | None = None,
    own: Own = NOTHING,
) -> list[Result]:
    """Experimental: trains several seeds of a config in one program, each as `run` would.

    The results are those of single runs with XLA's convolutions, to rounding. Small nets leave an
    accelerator idle, so several take little longer than one; a CPU has nothing to give away.

    Args:
      config: as for `run`, of mode "grow" or "scratch"; `parallel` is "jit", images lie on the
        device, convolutions are XLA's and depth is data (`growth.programs` "shared").
      workdir: each seed has its folder in it, "seed0" and so on, with all that a run leaves. The
        same call again goes on where it was stopped.
      seeds: how many, from `config.seed` on; or which.
      reporter: makes what is told about the progress of a seed; lines with the seed by default.
      own: objects in place of names, as `run` takes them.

    Returns:
      The results in the order of `seeds`.

    Raises:
      UserError: as for `run`; a seed that failed is named, once the others have ended.
    """
    hosts.refuse("run_seeds")
    given = flatten(config)
    first = build.resolve(given, own).seed
    chosen = list(range(first, first + seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(f"seeds is {seeds}; it takes a number of at least 1, or different seeds")
    configs = [_settle(given | {"seed": seed}, own) for seed in chosen]
    make_reporter = reporter or SeedReporter
    lockstep = Lockstep(len(chosen))
    results: dict[int, Result] = {}

    def work(index: int) -> None:
        seed = chosen[index]
        with lockstep.turn(index):
            folder = user_path(workdir) / f"seed{seed}"
            join = partial(SharedFeed, lockstep, index)
            results[index] = run_as(configs[index], folder, own, make_reporter(seed), join)

    threads = [
        threading.Thread(target=work, args=(i,), name=f"seed {seed}", daemon=True)
        for i, seed in enumerate(chosen)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException as stop:  # Ctrl-C: let the others end at their next epoch.
        lockstep.stop(stop)
        for thread in threads:
            thread.join()
        raise
    lockstep.close()
    for index, error in sorted(lockstep.errors.items()):
        if isinstance(error, UserError):
            raise type(error)(f"seed {chosen[index]}: {error}") from error
        raise error
    return [results[index] for index in range(len(chosen))]


def _settle(given: dict[str, Any], own: Own) -> dict[str, Any]:
    """The config of one seed, with what lockstep needs; UserError where it says otherwise."""
    settings = build.resolve(given, own)
    wrong = {
        "mode": settings.mode == "evaluate",
        "parallel": settings.parallel != "jit",
        "num_devices": settings.num_devices > 1,
        "deterministic": settings.deterministic,
        "data.on_device": settings.data.on_device == "no",
        "model.convolution": settings.model.convolution == NATIVE,
        "growth.programs": settings.growth.programs not in ("auto", SHARED),
        "growth.capacity": settings.growth.capacity == 0,
        "on_divergence": settings.on_divergence != "stop",
        # What an image takes a net is not seen where several compute at once.
        "growth.max_latency": settings.growth.max_latency > 0,
        "finetune.max_latency": settings.finetune.max_latency > 0,
    }
    for name in (name for name, is_wrong in wrong.items() if is_wrong):
        raise UserError(
            f"config.{name} is {flatten(settings)[name]!r}, which seeds in lockstep cannot have;"
            " leave it at its default, or run the seeds one by one"
        )
    need = {"num_devices": 1, "model.convolution": XLA, "growth.programs": SHARED}
    return given | need
