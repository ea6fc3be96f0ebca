"""What a policy does on a recorded accuracy curve, without training anything."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from autogrow_jax.errors import UserError
from autogrow_jax.growth.policy import Policy, ask

Schedule = Callable[[str, int, int], float]


class Replay(NamedTuple):
    """The course of a run as a policy steers it.

    Attributes:
      growth: `(epoch, depths)` for each growth; the net has `depths` from that epoch on (from
        0). A growth with which the growth phase ends counts too; one that was only tried does
        not, and one that was tried and kept counts from the end of its round of trials.
      depths: blocks in each stage at the end.
      growth_epochs: length of the growth phase; of all recorded epochs where it did not end.
      finetune_epochs: length of the fine-tune phase; 0 where the growth phase did not end.
      finished: whether the policy ended the growth phase within the recorded curve.
      learning_rates: rate of each epoch, both phases; empty if no schedule was given.
      trial_epochs: of the growth phase, those that trained a net on trial, kept or not.
    """

    growth: list[tuple[int, tuple[int, ...]]]
    depths: tuple[int, ...]
    growth_epochs: int
    finetune_epochs: int
    finished: bool
    learning_rates: list[float]
    trial_epochs: int = 0

    @property
    def total_epochs(self) -> int:
        """Epochs of both phases together."""
        return self.growth_epochs + self.finetune_epochs

    @property
    def lr_runs(self) -> list[list[float]]:
        """`[[rate, epochs], ...]`: `learning_rates` with equal neighbours put together."""
        return [[rate, len(list(run))] for rate, run in itertools.groupby(self.learning_rates)]


def replay(
    policy: Policy,
    accuracies: Iterable[float],
    finetune_epochs: int | None = None,
    schedule: Schedule | None = None,
    measurements: Iterable[Mapping[str, float]] | None = None,
) -> Replay:
    """Runs a policy over a recorded curve.

    The curve does not answer to the depths, so this shows the policy, not what training under it
    would have found. Each accuracy is that of the next epoch trained, whether the policy keeps that
    net or only tries it.

    Args:
      policy: any policy.
      accuracies: validation accuracy in percent after each epoch. Those after the end of the
        growth phase are taken as the fine-tune phase, which the policy does not see.
      finetune_epochs: length of the fine-tune phase; None takes what is left of `accuracies`.
      schedule: `schedule(phase, epoch, epochs) -> rate`, phase "growth" or "finetune", epoch
        counted within the phase, epochs the length of the fine-tune phase. As from
        `autogrow_jax.optim.make_schedule`.
      measurements: further numbers of each epoch by name, for policies that want them, at least
        as many as epochs of the growth phase; the lines of a metrics.jsonl serve as they are.

    Returns:
      The course of the run.

    Raises:
      UserError: if `finetune_epochs` is negative or there are fewer measurements than epochs.
      ValueError: if an accuracy of the growth phase is not finite.

    Example:
      >>> from autogrow_jax.growth import periodic
      >>> replay(periodic(interval=2), [50.0, 60.0, 61.0, 62.0]).growth
      [(2, (2, 1, 1)), (4, (2, 2, 1))]
    """
    if finetune_epochs is not None and finetune_epochs < 0:
        raise UserError(f"finetune_epochs={finetune_epochs} must be at least 0, or None.")
    curve = list(accuracies)
    measured = None if measurements is None else list(measurements)
    if measured is not None and len(measured) < len(curve):
        raise UserError(
            f"there are {len(measured)} measurements for {len(curve)} accuracies; give one for each"
        )
    state = policy.init()
    depths = policy.seed_depths
    growth: list[tuple[int, tuple[int, ...]]] = []
    growth_epochs, trial_epochs, finished, on_trial = 0, 0, False, False
    for epoch, accuracy in enumerate(curve):
        state, decision = ask(
            policy, state, depths, accuracy, None if measured is None else measured[epoch]
        )
        growth_epochs += 1
        trial_epochs += on_trial
        on_trial = decision.action == "trial"
        if on_trial:
            continue
        depths = decision.depths
        if decision.stages:
            growth.append((growth_epochs, depths))
        if decision.action == "finetune":
            finished = True
            break
    if not finished:
        finetune_epochs = 0
    elif finetune_epochs is None:
        finetune_epochs = len(curve) - growth_epochs
    rates: list[float] = []
    if schedule is not None:
        for phase, length in (("growth", growth_epochs), ("finetune", finetune_epochs)):
            rates += [schedule(phase, epoch, finetune_epochs) for epoch in range(length)]
    return Replay(growth, depths, growth_epochs, finetune_epochs, finished, rates, trial_epochs)
