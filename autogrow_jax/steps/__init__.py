"""The arrays of training and what changes them: the step, the programs, what feeds them."""

from autogrow_jax.steps.convolutions import AUTO, find_begun, settle_convolution
from autogrow_jax.steps.feed import Begun
from autogrow_jax.steps.host_feed import MakeFeed, make_feed
from autogrow_jax.steps.lockstep import Lockstep, SharedFeed
from autogrow_jax.steps.programs import DEFAULT_ROOT, EXACT, SHARED, choose_folder, keep_in
from autogrow_jax.steps.state import Depths, TrainState, Tree, check_optimizer
from autogrow_jax.steps.step import Sums, mean_loss, percent
from autogrow_jax.steps.trainer import Trainer
from autogrow_jax.steps.trials import Trials

__all__ = [
    "AUTO",
    "DEFAULT_ROOT",
    "EXACT",
    "SHARED",
    "Begun",
    "Depths",
    "Lockstep",
    "MakeFeed",
    "SharedFeed",
    "Sums",
    "TrainState",
    "Trainer",
    "Tree",
    "Trials",
    "check_optimizer",
    "choose_folder",
    "find_begun",
    "keep_in",
    "make_feed",
    "mean_loss",
    "percent",
    "settle_convolution",
]
