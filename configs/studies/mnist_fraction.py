"""Policies and initialisers on a twentieth of MNIST and of FashionMNIST, on a CPU.

python -m autogrow_jax.studies --study=configs/studies/mnist_fraction.py \
    --workdir=runs/mnist_fraction --config.data.dir=DATA --workers=2

3,000 images a set, a fifth of them held out for validation, two seeds, Basic3ResNet at 32x32. The
last four epochs or more are fine-tuning; the policies are compared over 16 epochs, the initialisers
over 12. Policies look every two epochs, as the paper's 3 and 100 would not fit; a gain of less than
half a point, three of 600 held-out images, is none. The paper has no such table: its nets grow for
hundreds of epochs on all images. 28 runs, about an hour on two cores.
"""

from typing import Any

from autogrow_jax.studies import Row, Section, Study

_SETS = {"MNIST": "mnist", "FashionMNIST": "fashion_mnist"}
_BASE: dict[str, Any] = {
    "data.fraction": 0.05,
    "data.batch_size": 64,
    "data.validation": "held-out",
    "data.validation_fraction": 0.2,
    "growth.policy": "periodic",
    "growth.interval": 2,
    "growth.window": 4,
    "growth.threshold": 0.5,
    "growth.noise": 0.0,
    "growth.initializer": "gaussian",
    "finetune.total_epochs": 12,
    "finetune.epochs": 4,
}
_INITIALIZERS = ("gaussian", "uniform", "morphism", "adam", "default")


def get_study() -> Study:
    """See the module's docstring."""
    sections = [make(name) for make in (_policies, _initializers) for name in _SETS]
    title = "Basic3ResNet grown on a twentieth of MNIST and FashionMNIST"
    return Study(title, sections, seeds=(0, 1))


def _policies(name: str) -> Section:
    rows = [
        _row(name, policy, {"growth.policy": policy, "finetune.total_epochs": 16})
        for policy in ("periodic", "convergent")
    ]
    note = "16 epochs; Gaussian start of a new block. Convergent growth waits until the net stops"
    return Section(
        f"{name}: periodic against convergent growth",
        ("policy",),
        rows,
        f"{note} improving.",
        x="policy",
    )


def _initializers(name: str) -> Section:
    rows = [
        _row(name, initializer, {"growth.initializer": initializer})
        for initializer in _INITIALIZERS
    ]
    note = (
        "Periodic growth, 12 epochs. Those of Adam's pre-training count in the seconds only, as in"
    )
    return Section(
        f"{name}: initialisers", ("initialiser",), rows, f"{note} the paper.", x="initialiser"
    )


def _row(name: str, value: str, changes: dict[str, Any]) -> Row:
    return Row((value,), f"configs/{_SETS[name]}_basic3.py", _BASE | changes)
