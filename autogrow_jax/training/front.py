"""The front of a growing run: nets that it passed through, fine-tuned, and the one to recommend.

Growth keeps a few of the states just before growths, see `halving.thin`, in `candidates/` beside
the checkpoints: a file for each net, `2-1-1.000012.npz` after 12 epochs of the run. Once growth is
over each is fine-tuned by the same schedule, on the same draws as the last net alone would be.
Which trains next, and which is stopped, `halving.find_next` says from the accuracies so far.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from autogrow_jax import hosts
from autogrow_jax.errors import UserError
from autogrow_jax.growth import standard_error
from autogrow_jax.halving import (
    MOST,
    Stop,
    afford,
    brier_scores,
    compare,
    find_next,
    recommend,
    thin,
)
from autogrow_jax.models import estimate_cost
from autogrow_jax.reporting import Reporter
from autogrow_jax.reporting.numbers import format_count, format_depths, round_percent
from autogrow_jax.saving import read_arrays, rebuild, write_arrays
from autogrow_jax.steps import Trainer
from autogrow_jax.training.run_state import RunState

# Of a run's state, what is told of the net that the trainer has.
_TOLD = ("train_accuracy", "validation_accuracy", "best_validation_accuracy")


class Front:
    """Keeps the candidates of a run, and says which of them the trainer has.

    A candidate that was stopped is taken up again where it would be recommended all the same, so
    that the one that is was trained to its end.

    A candidate in `state.candidates` is a dict: depths, what the state tells of the net (`_TOLD`,
    `evaluated_depths`), `growth_epochs` and `growths` before it left growth, the validation
    accuracies of its epochs of fine-tuning (`curve`), the milliseconds an image that each
    evaluation took, the epoch of the run that its file was `saved` at, and whether it was
    `taken_up`. Does nothing where `finetune.front` is off.
    """

    def __init__(self, trainer: Trainer, state: RunState, folder: Path, reporter: Reporter):
        self._trainer, self._state = trainer, state
        self._folder, self._reporter = folder, reporter
        settings = trainer.settings
        self._is_on = settings.mode == "grow" and settings.finetune.front
        if self._is_on:  # Before hours of growth.
            try:
                self._cost(trainer.depths)
            except UserError as error:
                raise UserError(f"{error}; or set config.finetune.front=False") from None
        self._named: list[set[Path]] = []  # By the checkpoints of this start, oldest first.
        # On the validation part, by depths and epochs of fine-tuning.
        self._scores: dict[tuple[tuple[int, ...], int], np.ndarray] = {}

    def keep(self) -> None:
        """Keeps the net that is about to grow, in the place of an earlier state of its depths."""
        if self._is_on:
            self._add()
            self._write(self._state.candidates[-1])

    def advance(self, lines: Sequence[Mapping[str, Any]], measured: Mapping[str, float]) -> None:
        """Takes what an epoch gave, and makes the trainer's net the one that trains next.

        The first time after growth it chooses the candidates; after the last epoch, the net that
        is recommended.

        Args:
          lines: those of metrics.jsonl so far.
          measured: of the last epoch, with latency in seconds an image.
        """
        state = self._state
        if not self._is_on or state.phase != "finetune":
            return
        length = self._trainer.settings.finetune.length(state.phase_start)
        if state.candidate is None:
            if length and state.epoch == state.phase_start:
                self._begin(lines, length)
            return
        entry, spared = state.candidates[state.candidate], self._spared()
        _, before = find_next(self._curves(), length, spared)
        entry |= self._tell()
        entry["curve"].append(state.validation_accuracy)
        entry["milliseconds"].append(1000 * measured["latency"])
        following, stopped = find_next(self._curves(), length, spared)
        for stop in stopped[len(before) :]:
            self._reporter.message(self._explain(stop))
        if following is None:
            following = self._find_taken_up(length)
        if following == state.candidate:
            return
        self._write(entry)
        place = following
        if place is None:
            self._measure(entry)
            place = self._recommend()
            if len(state.candidates[place]["curve"]) < length:
                self._take_up(state.candidates[place])
                following = place
            else:
                self._conclude(place, length)
        self._switch(state.candidates[place])
        state.candidate = following

    def after_saving(self, keep: int) -> None:
        """Deletes files that none of the newest `keep` checkpoints names, nor one being written."""
        files = {self._path(entry) for entry in self._state.candidates if "saved" in entry}
        self._named = [*self._named, files][-keep - 1 :]
        if len(self._named) > keep:
            named = {path for files in self._named for path in files}
            for path in set(self._folder.glob("*.npz")) - named if hosts.is_first() else ():
                path.unlink(missing_ok=True)

    def _begin(self, lines: Sequence[Mapping[str, Any]], length: int) -> None:
        """Chooses the candidates, of which the trainer has the last."""
        self._add()
        state, settings = self._state, self._trainer.settings
        costs = [self._cost(entry["depths"]).flops for entry in state.candidates]
        grown = sum(self._cost(line["depths"]).flops for line in lines)
        state.candidates = [state.candidates[i] for i in afford(costs, grown, length)]
        state.candidate = len(state.candidates) - 1
        names = ", ".join(format_depths(entry["depths"]) for entry in state.candidates)
        how = "each, fewer where a cheaper one is as accurate"
        if len(state.candidates) == 1:
            how = "of it, as growth passed through no other"
        self._reporter.message(f"the front: {names}; {format_count(length, 'epoch')} {how}")
        if settings.data.validation == "test":
            self._reporter.message(
                "the test set chooses among them, so the test accuracy of the one that it chooses"
                " is too high; config.data.validation=held-out keeps the test set apart"
            )

    def _measure(self, held: Mapping[str, Any]) -> None:
        """Measures the Brier scores of all nets, that which the trainer has the first."""
        candidates = self._state.candidates
        for entry in [held, *(other for other in candidates if other is not held)]:
            if self._key(entry) not in self._scores:
                self._switch(entry)
                with self._trainer.timed("evaluate"):
                    logits = self._trainer.predict("validation")
                labels = self._trainer.dataset.validation.labels
                self._scores[self._key(entry)] = brier_scores(logits, labels)

    def _measured(self) -> list[np.ndarray]:
        return [self._scores[self._key(entry)] for entry in self._state.candidates]

    def _key(self, entry: Mapping[str, Any]) -> tuple[tuple[int, ...], int]:
        return tuple(entry["depths"]), len(entry["curve"])

    def _recommend(self) -> int:
        """The place of the net that is recommended, as things stand."""
        settings, entries = self._trainer.settings.finetune, self._state.candidates
        accuracies = [entry["validation_accuracy"] for entry in entries]
        times = [median(entry["milliseconds"]) for entry in entries]
        given = accuracies, len(self._trainer.dataset.validation.labels), settings.choose
        place = recommend(*given, times, settings.max_latency, self._measured())
        return hosts.from_first(place)  # Of scores that are equal but for the last bit.

    def _find_taken_up(self, length: int) -> int | None:
        """The place of a stopped net that was taken up and is not trained to its end, if any."""
        for place, entry in enumerate(self._state.candidates):
            if entry.get("taken_up") and len(entry["curve"]) < length:
                return place
        return None

    def _take_up(self, entry: dict[str, Any]) -> None:
        """Has a net that was stopped trained on."""
        entry["taken_up"] = True
        name, accuracy = format_depths(entry["depths"]), entry["curve"][-1]
        self._reporter.message(
            f"{name} is taken up again: it would be recommended, {round_percent(accuracy)} %"
        )

    def _conclude(self, chosen: int, length: int) -> None:
        """Puts the front together, of which the net at `chosen` is recommended."""
        state = self._state
        images = len(self._trainer.dataset.validation.labels)
        behind = compare(self._measured())
        for entry, scores, (mean, error) in zip(
            state.candidates, self._measured(), behind, strict=True
        ):
            cost, accuracy = self._cost(entry["depths"]), entry["validation_accuracy"]
            state.front.append(
                {
                    "depths": entry["depths"],
                    "validation_accuracy": accuracy,
                    "standard_error": standard_error(accuracy, images),
                    "brier": float(scores.mean()),
                    "brier_behind": mean,
                    "brier_error": error,
                    "num_params": cost.num_params,
                    "flops": cost.flops,
                    "milliseconds": median(entry["milliseconds"]),
                    "growth_epochs": entry["growth_epochs"],
                    "finetune_epochs": len(entry["curve"]),
                    "stopped": len(entry["curve"]) < length,
                }
            )
        limit = self._trainer.settings.finetune.max_latency
        if limit and state.front[chosen]["milliseconds"] > limit:
            self._reporter.message(
                f"no net of the front takes less than config.finetune.max_latency={limit:g} ms an"
                " image; the fastest is recommended"
            )
        state.growth = state.growth[: state.candidates[chosen]["growths"]]

    def _explain(self, stop: Stop) -> str:
        curves, names = self._curves(), [format_depths(e["depths"]) for e in self._state.candidates]
        best = (max(curves[place][: stop.epochs]) for place in (stop.place, stop.cheaper))
        own, other = map(round_percent, best)
        return (
            f"{names[stop.place]} is stopped after {format_count(stop.epochs, 'epoch')} of"
            f" fine-tuning: {names[stop.cheaper]} costs less and has {other} % against {own} %"
        )

    def _curves(self) -> list[list[float]]:
        return [entry["curve"] for entry in self._state.candidates]

    def _spared(self) -> list[int]:
        is_last = self._trainer.settings.finetune.choose == "last"
        return [len(self._state.candidates) - 1] if is_last else []

    def _cost(self, depths: Sequence[int]) -> Any:
        trainer = self._trainer
        return estimate_cost(trainer.network, trainer.dataset.image_shape, tuple(depths))

    def _tell(self) -> dict[str, Any]:
        told: dict[str, Any] = {name: getattr(self._state, name) for name in _TOLD}
        return told | {"evaluated_depths": list(self._state.evaluated_depths)}

    def _add(self) -> None:
        """Adds the trainer's net as the last candidate, without its file."""
        state, depths = self._state, list(self._trainer.depths)
        came = {"growth_epochs": state.epoch, "growths": len(state.growth)}
        entry = {"depths": depths, **self._tell(), **came, "curve": [], "milliseconds": []}
        found = [*(other for other in state.candidates if other["depths"] != depths), entry]
        kept = thin([self._cost(each["depths"]).flops for each in found], MOST)
        state.candidates = [found[i] for i in kept]

    def _path(self, entry: Mapping[str, Any]) -> Path:
        return candidate_file(self._folder, entry)

    def _write(self, entry: dict[str, Any]) -> None:
        entry["saved"] = self._state.epoch
        memory = {"epoch": self._state.epoch, **entry}
        with self._trainer.timed("checkpoint"):
            if hosts.is_first():
                write_arrays(self._path(entry), self._trainer.exact_state(), memory)

    def _switch(self, entry: Mapping[str, Any]) -> None:
        """Gives the trainer a candidate's net, and the state what was told of it."""
        trainer, state, depths = self._trainer, self._state, tuple(entry["depths"])
        if trainer.depths == depths:  # No two candidates are of the same.
            return
        with trainer.timed("checkpoint"):
            arrays = read_arrays(self._path(entry)).arrays
            exact = rebuild(arrays, trainer.abstract_state(depths))
            trainer.restore(exact, depths, trainer.capacities)
        for name in _TOLD:
            setattr(state, name, entry[name])
        state.evaluated_depths = tuple(entry["evaluated_depths"])


def candidate_file(folder: Path, entry: Mapping[str, Any]) -> Path:
    """Where the net of a candidate lies."""
    return folder / f"{format_depths(entry['depths'])}.{entry['saved']:06d}.npz"
