"""Losses and optimisers by name, and the learning rate of every epoch.

An optimiser here turns gradients into a direction; the training step multiplies it by minus the
learning rate, which is data. So the rate may change every epoch without a new program and without
an entry in the optimiser's state. A rate is a number from (phase, epoch, length):

| schedule   | factor on the base rate in epoch e of N                | in the paper     |
|------------|--------------------------------------------------------|------------------|
| staircase  | 0.1 from e = N/2, 0.01 from e = 3N/4                   | after periodic   |
| thirds     | 0.1 from e = N/3, 0.01 from e = 2N/3                   | ImageNet         |
| convergent | 0.1 from e = 0, 0.01 from e = N/2                      | after convergent |
| cosine     | (1 + cos(pi e / N)) / 2                                |                  |
| constant   | 1                                                      |                  |
| auto       | in the fine-tune phase as the policy says, else staircase |               |

An optimiser of one's own is a function of the learning rate instead, such as `optax.lion`, whose
updates are added as they are. The rate it is called with is data in the step, as above.

Milestones are rounded down to whole epochs. The growth phase is constant whatever the schedule; a
net trained from scratch follows the schedule from its first epoch.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from autogrow_jax.errors import Registry, UserError, nearest

Schedule = Callable[[str, int, int], float]
# A learning rate, perhaps traced, to a transformation whose updates are added to the parameters.
Steps = Callable[[Any], optax.GradientTransformation]
# Logits [N, K] and labels int32 [N] to a loss of each image, [N].
Loss = Callable[[jax.Array, jax.Array], jax.Array]

LOSSES: Registry[Loss] = Registry(
    "loss", {"cross_entropy": optax.softmax_cross_entropy_with_integer_labels}
)


def register_loss(name: str, loss: Loss) -> None:
    """Adds a loss by name, for `config.loss`; UserError where the name is taken.

    `loss` takes logits [N, K] and labels int32 [N] to floats [N]; JAX has to know its gradient.
    """
    LOSSES.register(name, loss)


def measure_loss(loss: Loss, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of each image, float32 [N]; UserError where `loss` gives something else."""
    found = jnp.asarray(loss(logits, labels))
    if found.shape != labels.shape or not jnp.issubdtype(found.dtype, jnp.floating):
        raise UserError(
            f"the loss gives {found.dtype} {list(found.shape)} for logits {list(logits.shape)} and"
            f" labels {list(labels.shape)}; it takes one float for each image, {list(labels.shape)}"
        )
    return found.astype(jnp.float32)


def _sgd(momentum: float, nesterov: bool) -> optax.GradientTransformation:
    return optax.trace(decay=momentum, nesterov=nesterov) if momentum else optax.identity()


_DIRECTIONS: dict[str, Callable[[float, bool], optax.GradientTransformation]] = {
    "sgd": _sgd,
    "adam": lambda momentum, nesterov: optax.scale_by_adam(b1=momentum, nesterov=nesterov),
    "amsgrad": lambda momentum, nesterov: optax.scale_by_amsgrad(b1=momentum),
    "adagrad": lambda momentum, nesterov: optax.scale_by_rss(initial_accumulator_value=0.0),
    "adadelta": lambda momentum, nesterov: optax.scale_by_adadelta(rho=0.9, eps=1e-6),
    "rmsprop": lambda momentum, nesterov: optax.chain(
        optax.scale_by_rms(decay=0.99, eps=1e-8), _sgd(momentum, nesterov)
    ),
}
# Ours by their directions; one of the user's own as a function of the learning rate.
OPTIMIZERS: Registry[Steps | None] = Registry("optimizer", dict.fromkeys(_DIRECTIONS))


def register_optimizer(name: str, make: Steps) -> None:
    """Adds an optimiser by name, for `config.optimizer.name`; UserError where the name is taken.

    `make(learning_rate)` returns an optax transformation that steps by its updates as they are, as
    `optax.lion` does; `config.optimizer`'s momentum and weight decay do not reach it.
    """
    OPTIMIZERS.register(name, make)


def make_optimizer(
    name: str, *, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Builds an optimiser whose updates are still to be multiplied by -learning_rate.

    L2 regularisation is added to the gradient before everything else, on every parameter, batch
    normalisation and biases included, as in the paper (not decoupled, as AdamW's is). Momentum is
    b1 of adam and amsgrad; adagrad and adadelta have none. Nesterov's is for sgd, adam and rmsprop.
    """
    if OPTIMIZERS.find(name) is not None:
        raise UserError(f"{name!r} is an optimiser of your own: call it with a learning rate")
    direction = _DIRECTIONS[name](momentum, nesterov)
    return optax.chain(optax.add_decayed_weights(weight_decay), direction)


def as_steps(optimizer: optax.GradientTransformation | Steps) -> Steps:
    """A function of the learning rate, of one or of what `make_optimizer` returns."""
    if not isinstance(optimizer, optax.GradientTransformation):
        return optimizer
    return lambda rate: _scale(optimizer, -rate)


def as_they_are(optimizer: optax.GradientTransformation, base_rate: float) -> Steps:
    """A function of the learning rate, of an optimiser that has its own rate.

    Its updates are added as they are while the rate is `base_rate`, and scaled as the rate falls.
    """
    return lambda rate: _scale(optimizer, rate / base_rate)


def _scale(optimizer: optax.GradientTransformation, factor: Any) -> optax.GradientTransformation:
    optimizer = optax.with_extra_args_support(optimizer)

    def update(grads: Any, state: Any, params: Any = None, **more: Any) -> Any:
        updates, state = optimizer.update(grads, state, params, **more)
        return jax.tree.map(lambda u: factor * u, updates), state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


PHASES = ("growth", "finetune", "scratch")
# The rate falls by ten at each of these shares (numerator, denominator) of the phase.
_MILESTONES = {
    "staircase": ((1, 2), (3, 4)),
    "thirds": ((1, 3), (2, 3)),
    "convergent": ((0, 1), (1, 2)),
    "constant": (),
}
# A base rate to a schedule; None for ours.
SCHEDULES: Registry[Callable[[float], Schedule] | None] = Registry(
    "schedule",
    dict.fromkeys(("staircase", "thirds", "convergent", "cosine", "constant", "auto")),
)
# The policies after which "auto" is the staircase; "convergent" has a schedule of its name, and
# "custom" is what a policy of one's own is called that has no name.
_POLICIES = ("periodic", "slope", "gap", "efficiency", "lookahead", "custom")


def register_schedule(name: str, make: Callable[[float], Schedule]) -> None:
    """Adds a schedule by name, for `config.finetune.schedule`; UserError where the name is taken.

    `make(base_rate)` returns `schedule(phase, epoch, epochs) -> rate`, see `make_schedule`.
    """
    SCHEDULES.register(name, make)


def checked(schedule: Schedule) -> Schedule:
    """The same schedule of one's own; UserError where it gives what is no learning rate."""

    def ask(phase: str, epoch: int, epochs: int) -> float:
        rate = schedule(phase, epoch, epochs)
        try:
            number = float(rate)
        except TypeError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise UserError(
                f"the schedule gives {rate!r} for epoch {epoch} of {phase}; it takes (phase, epoch,"
                " epochs) to a learning rate, a number of at least 0"
            )
        return number

    return ask


def make_schedule(name: str, base_rate: float, policy: str | None = None) -> Schedule:
    """Makes a function that gives the learning rate of every epoch of a run.

    Args:
      name: one of `SCHEDULES`, see the table at the top of this module.
      base_rate: of the growth phase, above 0 (the paper: 0.1 residual, 0.01 plain nets).
      policy: what "auto" stands for in the fine-tune phase, the `schedule` of the growth policy;
        or the name of one of ours. None is "staircase".

    Returns:
      `schedule(phase, epoch, epochs) -> rate` for an epoch from 0 of a phase, one of `PHASES`, of
      so many, which "growth" ignores. ValueError for an epoch that lies outside of it.

    Raises:
      UserError: for an unknown schedule, policy or phase, or a base rate that is not above 0.

    Examples:
      >>> schedule = make_schedule("staircase", 0.1)
      >>> [schedule("finetune", epoch, 4) for epoch in range(4)]
      [0.1, 0.1, 0.01, 0.001]
    """
    if name not in SCHEDULES:
        raise UserError(f"no schedule {name!r}{nearest(name, SCHEDULES)}")
    if policy not in (None, *SCHEDULES, *_POLICIES):
        known = nearest(str(policy), [*SCHEDULES, *_POLICIES])
        raise UserError(f"no schedule {policy!r} for 'auto' to stand for{known}")
    if not (math.isfinite(base_rate) and base_rate > 0.0):
        raise UserError(f"the base learning rate is {base_rate}; it takes a number above 0")

    def schedule(phase: str, epoch: int, epochs: int) -> float:
        if phase not in PHASES:
            raise UserError(f"no phase {phase!r}{nearest(phase, PHASES)}")
        if epoch < 0 or (phase != "growth" and epoch >= epochs):
            raise ValueError(f"epoch {epoch} is outside of a {phase} phase of {epochs} epochs")
        if phase == "growth" and SCHEDULES[name] is None:
            return base_rate
        said = phase == "finetune" and policy in SCHEDULES and policy != "auto"
        automatic = str(policy) if said else "staircase"
        shape = automatic if name == "auto" else name
        if (own := SCHEDULES[shape]) is not None:
            return checked(own(base_rate))(phase, epoch, epochs)
        if shape == "cosine":
            return base_rate * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
        falls = sum(epoch >= part * epochs // whole for part, whole in _MILESTONES[shape])
        # Dividing once is exact where it can be: 0.1 / 10 is 0.01, 0.1 * 0.1 is not.
        return base_rate / 10**falls

    return schedule
