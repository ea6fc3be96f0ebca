"""What users do to find a depth: a sweep, successive halving, Optuna's TPE with Hyperband.

Each is given `train(place, epoch)`, which trains the net at a place among some, the cheapest first,
for an epoch (from 0) and returns its validation accuracy in percent. Epochs of a place are asked
for in their order, each once: nets that were left go on where they were, so that no epoch is paid
for twice.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from autogrow_jax.halving import recommend

Train = Callable[[int, int], float]


class Found(NamedTuple):
    """What a search ends with: the place of the net, and the epochs that each net was trained."""

    place: int
    epochs: list[int]


class _Nets:
    """The curves so far, of nets that are trained when they are asked for more."""

    def __init__(self, train: Train, number: int):
        self._train = train
        self.curves: list[list[float]] = [[] for _ in range(number)]

    def at(self, place: int, epochs: int) -> float:
        """The accuracy of a net that was trained for so many epochs."""
        curve = self.curves[place]
        while len(curve) < epochs:
            curve.append(self._train(place, len(curve)))
        return curve[epochs - 1]

    def found(self, place: int) -> Found:
        return Found(place, [len(curve) for curve in self.curves])


def sweep(train: Train, number: int, epochs: int, images: int) -> Found:
    """Trains all nets, and keeps the cheapest within a standard error of the best."""
    nets = _Nets(train, number)
    accuracies = [nets.at(place, epochs) for place in range(number)]
    return nets.found(recommend(accuracies, images, "one_se"))


def halve(train: Train, number: int, epochs: int) -> Found:
    """Keeps the better half, by the accuracy then, after a quarter of the epochs and after a half.

    Of equals the cheaper stays; the most accurate of those at the end is taken.
    """
    nets, running = _Nets(train, number), list(range(number))
    for rung in (epochs // 4, epochs // 2):
        if rung and len(running) > 1:
            best = sorted(running, key=lambda place: (-nets.at(place, rung), place))
            running = sorted(best[: len(running) // 2])
    return nets.found(max(running, key=lambda place: nets.at(place, epochs)))


def optuna_search(train: Train, number: int, epochs: int, trials: int, seed: int) -> Found:
    """Optuna's TPE over the places, pruned by Hyperband; its best trial is taken.

    A place that is drawn again costs only what it was not trained for yet. Trials begin with a
    third of `trials` at random, as TPE's own ten would be all of them.
    """
    # Here, not at the top: it is an extra.
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    nets = _Nets(train, number)

    def objective(trial: Any) -> float:
        place, accuracy = trial.suggest_int("place", 0, number - 1), 0.0
        for epoch in range(1, epochs + 1):
            accuracy = nets.at(place, epoch)
            trial.report(accuracy, epoch)
            if epoch < epochs and trial.should_prune():
                raise optuna.TrialPruned
        return accuracy

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(1, trials // 3)),
        pruner=optuna.pruners.HyperbandPruner(
            min_resource=max(1, epochs // 9), max_resource=epochs, reduction_factor=3
        ),
        # Hyperband draws a trial's bracket from its number and the study's name.
        study_name=f"depth-{seed}",
    )
    study.optimize(objective, n_trials=trials)
    complete = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    best = max(complete, key=lambda t: (t.value, -t.params["place"]))
    return nets.found(best.params["place"])
