"""Policies and initialisers on a twentieth of MNIST and of FashionMNIST, on a CPU.

python -m autogrow_jax.studies --study=configs/studies/mnist_fraction.py --workdir=runs/mnist_fraction --config.data.dir=DATA --workers=2

3,000 images a set, a fifth of them held out for validation, two seeds, Plain3Net at 32x32. Every
run has 18 epochs: growth ends after 12 at the latest, fine-tuning takes the rest. Both policies look
every K = 3 epochs, as the paper's periodic growth does; the 100 of its convergent growth would not
fit. The paper has no such table: its nets grow for hundreds of epochs on all images. 32 runs, about
an hour on two cores.
"""

from autogrow_jax.studies import Row, Section, Study

_SETS = {"MNIST": "mnist", "FashionMNIST": "fashion_mnist"}
_BASE = {
    "data.fraction": 0.05,
    "data.batch_size": 32,
    "data.validation": "held-out",
    "data.validation_fraction": 0.2,
    "growth.interval": 3,
    "growth.window": 6,
    # Of 600 held-out images; the paper's 0.05 would be less than a third of one.
    "growth.threshold": 0.5,
    "growth.initializer": "gaussian",
    "finetune.total_epochs": 18,
    "finetune.epochs": 6,
}
_POLICIES = {
    "periodic": {"growth.policy": "periodic"},
    "convergent": {"growth.policy": "convergent"},
}
_INITIALIZERS = ("gaussian", "uniform", "morphism", "adam", "default")


def get_study() -> Study:
    """See the module's docstring."""
    policies = [
        Row((name, policy), f"configs/{dataset}_plain3.py", _BASE | settings, scratch={})
        for name, dataset in _SETS.items()
        for policy, settings in _POLICIES.items()
    ]
    initializers = [
        Row((name, initializer), f"configs/{dataset}_plain3.py", _row(initializer))
        for name, dataset in _SETS.items()
        for initializer in _INITIALIZERS
    ]
    return Study(
        "Growth on a twentieth of MNIST and FashionMNIST",
        [
            Section(
                "Periodic against convergent growth",
                ("data set", "policy"),
                policies,
                "From scratch: the net that was found, trained for the same 18 epochs.",
            ),
            Section(
                "Initialisers",
                ("data set", "initialiser"),
                initializers,
                "Periodic growth. Epochs of Adam's pre-training count in the seconds, not in the"
                " epochs, as in the paper.",
            ),
        ],
        seeds=(0, 1),
    )


def _row(initializer: str) -> dict[str, object]:
    return _BASE | _POLICIES["periodic"] | {"growth.initializer": initializer}
