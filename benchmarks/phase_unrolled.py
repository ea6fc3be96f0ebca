"""A growth phase of a net of exact depth, compiled anew at each; for `alone.run_alone`."""

import tempfile
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp

from autogrow_jax.config import Settings, make_network, make_optimizer, resolve
from autogrow_jax.data import Dataset
from autogrow_jax.models import Network, get_family, num_params
from autogrow_jax.saving.checkpoint import CheckpointStore
from autogrow_jax.steps.convolutions import choose_convolution
from autogrow_jax.steps.feed import Epoch
from autogrow_jax.steps.host_feed import make_feed
from autogrow_jax.steps.programs import Programs
from autogrow_jax.steps.state import TrainState, init_state, make_mesh, replicate
from autogrow_jax.steps.step import Recipe, mean_loss, percent
from autogrow_jax.steps.trainer import PURPOSES
from benchmarks.depth_as_data import growth_path
from benchmarks.phase_ours import make_config
from benchmarks.phases import Record, Stopwatch, go_through, load, make_record
from benchmarks.step_times import Depths, StepTimes
from benchmarks.unrolled import Unrolled, block_name, unroll


def train_unrolled(data: str, last: int, **arguments: Any) -> Record:
    """The phase of `phase_ours.train_ours` by a net of exact depth, a program for each.

    Args:
      data: an .npz file.
      last: blocks in each stage at the end.
      **arguments: others of `phase_ours.make_config`.
    """
    config = resolve(make_config(data=data, last=last, **arguments))
    watch = Stopwatch()
    dataset = load(data)
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(folder, config.checkpoint.keep)
        try:
            net = _UnrolledNet(config, dataset, watch.programs, store)
            times, losses = go_through(net, watch, growth_path(last), config.growth.interval)
            with watch.timed("checkpoint"):
                store.wait()
            seconds = watch.stop()
        finally:
            store.close()
    counts = watch.programs.counts
    return make_record(seconds, times.by_depth(), net.num_params, sum(counts.values()), losses)


class _UnrolledNet:
    """`Unrolled` in the package's own loop: feed, step and checkpoints are those of a run."""

    name = "unrolled"

    def __init__(
        self, config: Settings, dataset: Dataset, programs: Programs, store: CheckpointStore
    ):
        channels = dataset.image_shape[2]
        seed = make_network(config, dataset.num_classes, channels, config.model.depths)
        convolution, _ = choose_convolution(config)
        seed = seed.clone(options=seed.options._replace(convolution=convolution))
        self._options, self._learning_rate = seed.options, config.optimizer.learning_rate
        self._family = get_family(seed.family)
        self._make_network = partial(Unrolled, family=seed.family, options=seed.options)
        self._optimizer = make_optimizer(config)
        self._programs, self._store = programs, store
        self._root = jax.random.key(config.seed)
        init = partial(init_state, seed, self._optimizer)
        self._init = lambda key: init(key, dataset.image_shape, False)
        batch_size = config.data.batch_size
        self._recipe = Recipe(
            network=seed,
            optimizer=self._optimizer,
            preprocessing=dataset.preprocessing,
            batch_size=batch_size,
            ema=0.0,
            parallel="jit",
            mesh=make_mesh(1, batch_size),
        )
        self._feed = make_feed(dataset, self._recipe, programs, config.data.on_device)
        self.steps_per_epoch = self._feed.steps_per_epoch
        self._depths: Depths = ()
        self._state: Any = None
        self._starts = [self._make_start(stage) for stage in range(3)]

    @property
    def num_params(self) -> int:
        """Trainable parameters."""
        return num_params({"params": self._state.params})

    def _key(self, purpose: str, epoch: int) -> jax.Array:
        # As the trainer's: the seed net then sees the same batches.
        return jax.random.fold_in(jax.random.fold_in(self._root, PURPOSES.index(purpose)), epoch)

    def _make_start(self, stage: int):
        features = self._family.widths[stage]
        block = self._family.block(features=features, stride=1, options=self._options)
        like = jax.ShapeDtypeStruct((1, 8, 8, features), jnp.float32)
        return lambda key: block.lazy_init(key, like, False)

    def grow(self, depths: Depths) -> None:
        if self._state is None:
            exact = self._programs.call("init", self._init, self._key("init", 0))
            params = unroll(exact.params, depths)
            stats = unroll(exact.batch_stats, depths)
            state = TrainState(params, stats, self._optimizer.init(params), {})
        else:
            state = self._grown(depths)
        self._depths = depths
        self._state = replicate(state, self._recipe.mesh)
        network = cast(Network, self._make_network(depths))
        self._recipe = self._recipe._replace(network=network)

    def _grown(self, depths: Depths) -> TrainState:
        old = self._state
        (stage,) = (i for i, (a, b) in enumerate(zip(self._depths, depths, strict=True)) if a < b)
        name = block_name(stage, self._depths[stage])
        key = self._key("growth", sum(depths))
        block = self._programs.call("growth", self._starts[stage], key)
        params = {**old.params, name: block["params"]}
        stats = {**old.batch_stats, name: block["batch_stats"]}
        opt_state = _carry(self._optimizer.init(params), old.opt_state)
        return TrainState(params, stats, opt_state, {})

    def train_epoch(self, epoch: int, times: StepTimes) -> float:
        settings = Epoch(
            self._key("order", epoch),
            self._key("augment", epoch),
            replicate(jnp.asarray(self._depths, jnp.int32), self._recipe.mesh),
            self._learning_rate,
        )

        def progress(steps: int, images: int) -> None:
            times.tick(steps)

        self._state, sums = self._feed.train_epoch(self._recipe, self._state, settings, progress)
        return mean_loss(jax.device_get(sums))

    def evaluate(self) -> float:
        live = replicate(jnp.asarray(self._depths, jnp.int32), self._recipe.mesh)
        variables = self._state.variables()
        sums = self._feed.evaluate(self._recipe, variables, "validation", live)
        return percent(jax.device_get(sums))

    def save(self, epoch: int, accuracy: float) -> None:
        self._store.save(epoch, jax.device_get(self._state), {"epoch": epoch}, accuracy)


def _carry(new: Any, old: Any) -> Any:
    """`new` with the leaves of `old` where it has them."""
    before = dict(jax.tree_util.tree_leaves_with_path(old))
    return jax.tree_util.tree_map_with_path(lambda path, leaf: before.get(path, leaf), new)
