"""Optimisers by name, without their learning rate.

An optimiser here turns gradients into a direction; the training step multiplies it by minus the
learning rate, which is data. So the rate may change every epoch without a new program and without
an entry in the optimiser's state.
"""

from collections.abc import Callable

import optax

from autogrow_jax.errors import UserError, nearest

OptimizerFn = Callable[[float, bool], optax.GradientTransformation]


def _sgd(momentum: float, nesterov: bool) -> optax.GradientTransformation:
    return optax.trace(decay=momentum, nesterov=nesterov) if momentum else optax.identity()


OPTIMIZERS: dict[str, OptimizerFn] = {
    "sgd": _sgd,
    "adam": lambda momentum, nesterov: optax.scale_by_adam(b1=momentum, nesterov=nesterov),
    "amsgrad": lambda momentum, nesterov: optax.scale_by_amsgrad(b1=momentum),
    "adagrad": lambda momentum, nesterov: optax.scale_by_rss(initial_accumulator_value=0.0),
    "adadelta": lambda momentum, nesterov: optax.scale_by_adadelta(rho=0.9, eps=1e-6),
    "rmsprop": lambda momentum, nesterov: optax.chain(
        optax.scale_by_rms(decay=0.99, eps=1e-8), _sgd(momentum, nesterov)
    ),
}


def make_optimizer(
    name: str, *, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Builds an optimiser whose updates are still to be multiplied by -learning_rate.

    L2 regularisation is added to the gradient before everything else, on every parameter, batch
    normalisation and biases included, as in the paper (not decoupled, as AdamW's is).

    Args:
      name: one of `OPTIMIZERS`.
      momentum: of sgd and rmsprop; b1 of adam and amsgrad; adagrad and adadelta have none.
      nesterov: for sgd, adam and rmsprop.
      weight_decay: factor of the L2 term's gradient.

    Raises:
      UserError: for an unknown name.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"no optimizer {name!r}{nearest(name, OPTIMIZERS)}")
    return optax.chain(
        optax.add_decayed_weights(weight_decay), OPTIMIZERS[name](momentum, nesterov)
    )
