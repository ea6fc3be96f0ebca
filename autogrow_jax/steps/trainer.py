"""The arrays of a run and what changes them: epochs of training, evaluation, growth.

It knows nothing of files, policies or schedules.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from autogrow_jax import build, hosts
from autogrow_jax.data import Dataset
from autogrow_jax.errors import DivergedError
from autogrow_jax.growth import deepen, get_initializer
from autogrow_jax.growth.grow import check_finite
from autogrow_jax.growth.start import check_identity
from autogrow_jax.models import Network
from autogrow_jax.reporting.numbers import format_depths
from autogrow_jax.reporting.result import TIMED
from autogrow_jax.settings import Settings
from autogrow_jax.steps.convolutions import choose_convolution
from autogrow_jax.steps.feed import Begun, Epoch
from autogrow_jax.steps.grow_step import make_grow_state, make_init, pretrain
from autogrow_jax.steps.host_feed import MakeFeed, make_feed
from autogrow_jax.steps.programs import EXACT, Programs, choose_programs, choose_threads
from autogrow_jax.steps.state import (
    Depths,
    TrainState,
    Tree,
    choose_capacities,
    make_mesh,
    make_state,
    pad_state,
    perturb,
    replicate,
)
from autogrow_jax.steps.step import Recipe, Sums, choose_evaluation_batch_size
from autogrow_jax.trees import cut

# What a random draw is for; its place in this list is folded into the run's key first.
PURPOSES = ("init", "order", "augment", "growth", "pretrain", "perturb")


class Trainer:
    """Holds a run's state, padded and on the devices, and so owns the depths of the run."""

    depths: Depths  # Blocks of each stage.
    capacities: Depths  # Blocks of each stage there is room for.
    convolution: str  # "native" or "xla".
    is_exact: bool  # Whether each depth has programs of its own.
    programs: Programs  # All executables; to be closed when no more will be asked for.
    seconds: dict[str, float]  # By what on; without compilation, which is `programs.seconds`.
    begun: Begun | None = None  # The last epoch that was trained, or is being.
    # Called where training can be stopped and nothing is half done: every few seconds.
    look: Callable[[], None] | None = None

    def __init__(self, settings: Settings, dataset: Dataset, make_feed: MakeFeed = make_feed):
        self.settings, self.dataset = settings, dataset
        size, parts = settings.data.batch_size, settings.gradient_accumulation
        self._mesh = make_mesh(settings.num_devices, size, parts)
        self.depths = tuple(settings.model.depths)
        self.is_exact = choose_programs(settings.growth) == EXACT
        first_capacities = (settings.growth.capacity,) * len(self.depths)
        self.capacities = self.choose_capacities(self.depths, first_capacities)
        data = dataset.num_classes, dataset.image_shape[2]
        network = build.make_network(settings, *data, self.depths)
        self.convolution, _ = choose_convolution(settings)
        self._network = network.clone(
            options=network.options._replace(convolution=self.convolution)
        )
        self._root = jax.random.key(settings.seed)
        self.programs = Programs(choose_threads(settings.growth), settings.deterministic)
        self.seconds = dict.fromkeys(TIMED, 0.0)
        sizes = size // parts, len(dataset.validation.labels), self._mesh.size
        self._recipe = Recipe(
            self._network.clone(depths=self.capacities),
            build.make_optimizer(settings),
            dataset.preprocessing,
            size,
            settings.optimizer.ema,
            settings.parallel,
            self._mesh,
            self.is_exact,
            choose_evaluation_batch_size(*sizes),
            build.find_loss(settings),
            build.find_augmentation(settings),
            parts,
        )
        self._feed = make_feed(dataset, self._recipe, self.programs, settings.data.on_device)
        self.steps_per_epoch = self._feed.steps_per_epoch
        self._abstract_states: dict[Depths, TrainState] = {}
        self._state: TrainState | None = None

    @property
    def network(self) -> Network:
        """At its exact depths."""
        return self._network.clone(depths=self.depths)

    def key(self, purpose: str, epoch: int) -> jax.Array:
        """The key of everything random for a purpose (one of `PURPOSES`) in an epoch."""
        return jax.random.fold_in(jax.random.fold_in(self._root, PURPOSES.index(purpose)), epoch)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds the wall-clock time of a block to `seconds`, less what was compiled in it."""
        start, compiled = time.perf_counter(), self.programs.seconds
        yield
        spent = time.perf_counter() - start
        self.seconds[what] += spent - (self.programs.seconds - compiled)

    def start(self, replace: Callable[[Tree], Tree] | None = None) -> None:
        """Makes the state before the first epoch.

        Its variables are fresh, or what `replace` makes of these, at exact depth, on the host.
        """
        if self.settings.mode == "grow":  # Before an hour of training, not after it.
            check_identity(self._network, get_initializer(self.settings.growth.initializer))
        exact = self._draw(self.key("init", 0))
        if replace is not None:
            fresh = {"params": exact.params, "batch_stats": exact.batch_stats}
            given = replace(fresh), self._recipe.transformation(), self._recipe.ema > 0
            exact = make_state(*given)
        self._place(exact, self.capacities)

    def _draw(self, key: jax.Array) -> TrainState:
        """A fresh state of the depths there are, on the host."""
        # At the capacity and then cut: a block's draws do not depend on the depth, and one program
        # serves all depths, also those of other runs where compiled programs are kept on disk.
        init = self.programs.make(make_init, self._recipe, self.dataset.image_shape)
        roomy = self.programs.call("init", init, key, runs_seldom=True)
        return cut(jax.device_get(roomy), self.depths)

    def perturb(self, share: float, epoch: int) -> None:
        """Moves all parameters a share of the way to a fresh draw, see `perturb`."""
        given = self._draw(self.key("perturb", epoch)).params, share, self._recipe.transformation()
        self._place(perturb(self.exact_state(), *given), self.capacities)

    def abstract_state(self, depths: Depths) -> TrainState:
        """Shapes, dtypes and places of the state at these depths."""
        if depths not in self._abstract_states:
            init = self.programs.make(make_init, self._recipe_of(depths), self.dataset.image_shape)
            how = {"sharding": NamedSharding(self._mesh, PartitionSpec())}
            self._abstract_states[depths] = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, **how),
                jax.eval_shape(init, self._root),
            )
        return self._abstract_states[depths]

    def restore(self, exact: TrainState, depths: Depths, capacities: Depths) -> None:
        """Takes over a state of exact `depths`, padded to `capacities`."""
        self.depths = depths
        self._place(exact, depths if self.is_exact else capacities)

    def _place(self, exact: TrainState, capacities: Depths) -> None:
        self.capacities, self._recipe = capacities, self._recipe_of(capacities)
        self._state = replicate(pad_state(exact, self.abstract_state(capacities)), self._mesh)

    def choose_capacities(self, depths: Depths, now: Depths) -> Depths:
        """The capacities that a net of these depths is held in after those of `now`."""
        return depths if self.is_exact else choose_capacities(depths, now)

    def _recipe_of(self, capacities: Depths) -> Recipe:
        return self._recipe._replace(network=self._network.clone(depths=capacities))

    def compile_ahead(self, *growths: Sequence[Depths], grows: bool = True) -> None:
        """Compiles in the background what will be asked for, in that order.

        That is training, evaluation and growth, where the run `grows`; not the pre-training of an
        initialiser. `growths` are the capacities that each of the next ones will lead to in turn,
        by default the present ones. What was begun for others is dropped.
        """
        self.programs.drop_ahead()
        for capacities in growths or ((),):
            for each in capacities:
                self._compile_growth_ahead(each)
            last = capacities[-1] if capacities else self.capacities
            given = self.abstract_state(last), self._describe_epoch(0, 1.0)
            self._feed.compile_ahead(self._recipe_of(last), *given)
        # Where each depth has its own programs, the next growth is one of the next depth's.
        if grows and not growths and not self.is_exact:
            self._compile_growth_ahead(self.capacities)

    def _compile_growth_ahead(self, capacities: Depths) -> None:
        described = self.abstract_state(capacities)
        given = self._growth_program(self._recipe_of(capacities), described, 0, self._root)
        self.programs.compile_ahead(*given, donate=(0,), runs_seldom=True)

    def exact_state(self) -> TrainState:
        """The state at exact depth, on the host: what is saved."""
        return cut(jax.device_get(self.padded_state), self.depths)

    @property
    def padded_state(self) -> TrainState:
        """The state as it lies on the devices, its stacked axes padded to the capacities."""
        assert self._state is not None, "start() or restore() comes first"
        return self._state

    def _live_depths(self) -> jax.Array:
        return replicate(jnp.asarray(self.depths, jnp.int32), self._mesh)

    def train_epoch(
        self,
        epoch: int,
        learning_rate: float,
        progress: Callable[[int, int], None] | None,
        begun: Begun | None = None,
    ) -> Sums:
        """Trains for one epoch, or the rest of one that has begun; returns its sums on the host."""
        hosts.meet()
        begun = begun or Begun(self.padded_state, Sums.zero(), 0)
        given = begun, self._describe_epoch(epoch, learning_rate), progress
        pieces = self._feed.train(self._recipe, *given)
        while True:
            with self.timed("train"):
                piece = next(pieces, None)
                if piece is None:
                    return jax.device_get(begun.sums)
            self.begun = begun = piece
            self._state = begun.state
            if self.look is not None:
                self.look()

    def _describe_epoch(self, epoch: int, learning_rate: float) -> Epoch:
        keys = self.key("order", epoch), self.key("augment", epoch)
        return Epoch(*keys, self._live_depths(), learning_rate)

    def evaluate(self, part: str) -> Sums:
        """Evaluates the "validation" or "test" part; returns the sums on the host."""
        hosts.meet()
        with self.timed("evaluate"):
            arguments = self.padded_state.variables(), part, self._live_depths()
            return jax.device_get(self._feed.evaluate(self._recipe, *arguments, self.look))

    def predict(self, part: str) -> np.ndarray:
        """The logits of the "validation" or "test" part, float32 [N, num_classes]."""
        hosts.meet()
        arguments = self.padded_state.variables(), part, self._live_depths()
        return self._feed.predict(self._recipe, *arguments)

    def grow(self, stages: Sequence[int], epoch: int, train_accuracy: float) -> list[Depths]:
        """Appends a block to each of `stages` in turn, and returns the depths after each block.

        The epoch about to begin decides the draws; the train accuracy of the last one, in percent,
        is for Adam pre-training.
        """
        passed, name = [], self.settings.growth.initializer
        for number, stage in enumerate(stages):
            with self.timed("growth"):
                self._grow_one(stage, jax.random.fold_in(self.key("growth", epoch), number))
                if get_initializer(name).pretrain:
                    key = jax.random.fold_in(self.key("pretrain", epoch), number)
                    how = self._live_depths(), key, train_accuracy, self.look
                    self._state = pretrain(self._feed, self._recipe, self.padded_state, stage, *how)
                grown = {n: getattr(self.padded_state, n) for n in ("params", "batch_stats")}
                check_finite(name, grown, stage, self.depths[stage] - 2)
            passed.append(self.depths)
        return passed

    def _grow_one(self, stage: int, key: jax.Array) -> None:
        deeper = deepen(self.depths, stage)
        capacities = self.choose_capacities(deeper, self.capacities)
        if capacities != self.capacities:
            self._place(self.exact_state(), capacities)
        given = self._growth_program(self._recipe, self.padded_state, stage, key)
        self._state = self.programs.call("growth", *given, donate=(0,), runs_seldom=True)
        self.depths = deeper

    def _growth_program(
        self, recipe: Recipe, state: TrainState, stage: int, key: jax.Array
    ) -> tuple[Any, ...]:
        """The function that lets a state grow, and its arguments."""
        how = self.settings.growth.initializer, self.settings.growth.reset_optimizer
        function = self.programs.make(make_grow_state, recipe, *how)
        images = self._feed.some_images(recipe.batch_size // recipe.accumulation)
        return function, state, key, jnp.int32(stage), self._live_depths(), *images

    def exact_variables(self) -> dict[str, Any]:
        """What evaluation uses, at exact depth, as NumPy arrays."""
        return cut(jax.device_get(self.padded_state.variables()), self.depths)

    def check_finite(self, epoch: int, rate: float, trained: Sums) -> None:
        """Raises DivergedError before weights that are lost could become a checkpoint."""
        step = f"step {self.steps_per_epoch - 1}, the last"  # Whose weights no loss has seen.
        if trained.bad_step >= 0:
            step = f"step {int(trained.bad_step)}"
        # Not the losses: an infinite variance makes everything zero.
        elif all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(self.exact_variables())):
            return
        way = "or go on with config.on_divergence=restart"
        way = "as restarts were of no use" if self.settings.on_divergence == "restart" else way
        raise DivergedError(
            f"the loss is not finite any more: epoch {epoch}, {step} (learning rate {rate:g},"
            f" depths {format_depths(self.depths)}). Checkpoints of earlier epochs are kept. Lower"
            f" config.optimizer.learning_rate and start in another --workdir, {way}."
        )
