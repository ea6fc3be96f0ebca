r"""All studies in miniature, on scikit-learn's digits: within ten minutes on two CPU cores.

python -m autogrow_jax.studies --study=configs/studies/smoke.py \
    --workdir=runs/smoke --workers=2

Half of the digits (721 images of 8x8 pixels, 84 of them held out), runs of 24 epochs of which the
last 6 or more are fine-tuning, J = 4 epochs instead of 100, and two points as the threshold of the
gain, as a single validation image makes 1.4. The sections are those of `main_table.py`,
`dataset_size.py`, `growth_interval.py`, `initializers.py`, `seed_depth.py` and `fixed_depth.py`.

It shows that everything runs and what the output looks like. Do not read more into it: two seeds,
359 test images (a point is 3.6 of them), training far too short for the differences of the paper.

62 cells (31 for each of two seeds); a run that several sections hold is done once. On two idle
cores of an AMD EPYC it took 6 min 43 s.
"""

from typing import Any

from autogrow_jax.studies import Row, Section, Study

from .dataset_size import Net, make_sections

_CONFIG = "configs/digits_plain3.py"
_BASE: dict[str, Any] = {
    "model.family": "basic3",
    "data.fraction": 0.5,
    "data.batch_size": 32,
    "growth.interval": 3,
    "growth.window": 4,
    "growth.threshold": 2.0,
    "growth.noise": 0.0,
    # All of them fit into the first program: none is compiled on the way.
    "growth.max_depths": (8,),
    "finetune.epochs": 6,
    "finetune.schedule": "staircase",
    "finetune.total_epochs": 24,
    # As in the paper: the last net alone, as it is.
    "finetune.front": False,
    "finetune.perturb": 0.0,
    "growth.initializer": "gaussian",
    # A checkpoint after each growth and at the end.
    "checkpoint.every": 100,
}
_PLAIN = {"model.family": "plain3"}
# Wide networks are slow on a CPU; two blocks in a stage are enough to see them grow.
_WIDE = {
    "data.fraction": 0.25,
    "growth.capacity": 2,
    "growth.max_depths": (2,),
    "finetune.epochs": 2,
    "finetune.total_epochs": 8,
}
_CONVERGENT = {"growth.policy": "convergent", "growth.interval": 3}


def get_study() -> Study:
    """See the module's docstring."""
    sections = [
        _main_table(),
        *_dataset_size(),
        _growth_interval(),
        _initializers(),
        _policies(),
        _seed_depth(),
        _fixed_depth(),
    ]
    return Study("All studies in miniature, on digits", sections, seeds=(0, 1))


def _row(*names: str, **options: Any) -> Row:
    overrides = _BASE | options.pop("overrides", {})
    return Row(names, _CONFIG, overrides, **options)


def _main_table() -> Section:
    rows = [
        _row("Basic3ResNet", scratch={}),
        _row("Plain3Net", overrides=_PLAIN, scratch={}),
        _row("Basic4ResNet", overrides={"model.family": "basic4"} | _WIDE, scratch={}),
        _row("Plain4Net", overrides={"model.family": "plain4"} | _WIDE, scratch={}),
    ]
    note = (
        "Delta is accuracy less that of the found net trained from scratch for as many epochs as"
        " growth and fine-tuning took. The nets of four stages, which are wide, get 8 epochs, a"
        " quarter of the data and at most two blocks in a stage."
    )
    return Section("Main table", ("net",), rows, note)


def _dataset_size() -> list[Section]:
    net = Net(("Plain3Net", "half of digits"), _CONFIG, _BASE | _PLAIN)
    # The total too: with as many epochs for fewer images, it would end growth before the policy.
    return make_sections([net], (100, 50), scaled=("finetune.epochs", "finetune.total_epochs"))


def _growth_interval() -> Section:
    rows = [_row(str(k), overrides={"growth.interval": k}) for k in (1, 3, 5)]
    rows.append(_row("convergent", overrides=_CONVERGENT))
    note = "Basic3ResNet, epochs K between two growths; convergent growth looks every 3 epochs."
    return Section("Growth interval", ("K",), rows, note, x="K")


def _initializers() -> Section:
    rows = [
        _row(policy, name, overrides={**changes, "growth.initializer": name})
        for policy, changes in (("periodic", {}), ("convergent", _CONVERGENT))
        for name in ("morphism", "adam", "uniform", "gaussian", "default")
    ]
    note = "Basic3ResNet. Adam's epochs of pre-training count in the seconds only."
    return Section("Initialisers", ("policy", "initialiser"), rows, note, x="initialiser")


def _policies() -> Section:
    # Gains and gaps of so few epochs are large; the default settings would decide as periodic does.
    further: dict[str, dict[str, Any]] = {
        "slope": {},
        "gap": {"growth.max_gap": 20.0},
        "efficiency": {"growth.price": 10.0},
        "lookahead": {},
    }
    rows = [_row("periodic", "3"), _row("convergent", "3", overrides=_CONVERGENT)]
    rows += [
        _row(policy, "3", overrides={"growth.policy": policy, **settings})
        for policy, settings in further.items()
    ]
    note = (
        "Basic3ResNet, 24 epochs each, trials of lookahead included. Only periodic and convergent"
        " are the paper's. Where a rule decides at no point otherwise than periodic growth, the run"
        " is the same to the last digit."
    )
    return Section("Policies at equal budget", ("policy", "K"), rows, note)


def _seed_depth() -> Section:
    rows = [
        _row("1-1-1"),
        _row("3-3-3", overrides={"model.depths": (3, 3, 3)}),
    ]
    return Section("Seed depth", ("seed network",), rows, "Basic3ResNet, where growth starts.")


def _fixed_depth() -> Section:
    rows = [
        _row(
            str(blocks),
            overrides=_PLAIN | {"mode": "scratch", "model.depths": (blocks,) * 3},
        )
        for blocks in (1, 2, 3, 5)
    ]
    rows.append(_row("found", overrides=_PLAIN, scratch={}, found=True))
    note = (
        "Plain3Net, blocks in each stage, trained from scratch for 24 epochs; at the end the net"
        " that growth found, with delta against the same net from scratch."
    )
    return Section("Fixed depths", ("blocks a stage",), rows, note)
