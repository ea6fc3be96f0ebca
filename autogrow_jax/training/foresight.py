"""Which capacities a run will need next, asked of its own policy."""

from collections.abc import Callable, Mapping

from autogrow_jax.growth import Policy
from autogrow_jax.growth.policy import State


def foresee_capacities(
    policy: Policy,
    state: State,
    depths: tuple[int, ...],
    capacities: tuple[int, ...],
    choose: Callable[[tuple[int, ...], tuple[int, ...]], tuple[int, ...]],
    measurements: Mapping[str, float],
    patience: int,
    trial: int | None = None,
) -> tuple[tuple[int, ...], ...]:
    """The capacities that the first growth takes for which these have no room.

    The policy is asked as if accuracy went on to rise, so that growth pays. Where it does not grow
    on that for `patience` epochs, accuracy stalls for as long, which is what convergent growth
    waits for.

    Args:
      policy: of the run; pure, so that asking it changes nothing.
      state: the policy's.
      depths: of the net that the policy lets grow.
      capacities: room in each stage.
      choose: depths and the capacities so far to those that they are given room in.
      measurements: of the last epoch, with validation_accuracy and train_accuracy in percent.
      patience: epochs.
      trial: stage that the policy has decided to try, if any.

    Returns:
      The capacities one after the other, as a growth of several stages takes them; none where no
      such growth is in sight.
    """
    measured = dict(measurements)
    on_trial, waited = trial is not None, 0
    stages: tuple[int, ...] = () if trial is None else (trial,)
    while waited < 2 * patience:
        deeper, found = list(depths), [capacities]
        for stage in stages:
            deeper[stage] += 1
            wanted = choose(tuple(deeper), found[-1])
            if wanted != found[-1]:
                found.append(wanted)
        if len(found) > 1:
            return tuple(found[1:])
        if not on_trial:
            depths = tuple(deeper)
        if waited < patience:
            for name in ("validation_accuracy", "train_accuracy"):
                # Never beyond 100 %, which a policy may take for an error.
                measured[name] += min(1.0, (100.0 - measured[name]) / 10)
        state, decision = policy.update(
            state, measured["validation_accuracy"], measurements=measured
        )
        if decision.action == "finetune" and not decision.stages:
            return ()
        on_trial, stages = decision.action == "trial", decision.stages
        waited = 0 if stages and not on_trial else waited + 1
    return ()
