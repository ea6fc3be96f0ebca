r"""Growth that fits small sets: how far apart growths are, which gain counts, how blocks start.

python -m autogrow_jax.studies --study=configs/studies/small_sets.py \
    --workdir=runs/small_sets --config.data.dir=DATA --workers=2

Plain3Net by periodic growth with its front on digits, on a fiftieth of MNIST (1,200 images) and on
a twenty-fifth of CIFAR10 (2,000): the paper's rule, by which any gain counts, with J = 100 and J =
15 epochs; a gain counts that is more than a standard error of the validation accuracy
(`growth.noise=1`), with J = 15 and J = 6; and the same with twice the interval. The paper has no
such sets. With a quarter of CIFAR10 in DATA give `--config.data.fraction=0.16`. On images made half
as wide a run takes minutes: `python -m benchmarks.half_size --name=mnist --data=DATA
--out=half/mnist.npz` and then `--study=configs/studies/small_sets.py:mnist
--config.data.name=npz:half/mnist.npz`.

Blocks start by the paper's `gaussian`, and accuracy chooses. Each net is fine-tuned for 20 epochs,
on digits for 30. Growth takes 110 epochs at most, on digits 60, which J = 100 uses up.

Initialisers are compared on one path of depths, 1-1-1 to 4-4-3 in 24 epochs, without a front.

90 cells (5 rules and 5 initialisers, 3 sets, 3 seeds). `small_sets.py:mnist` runs what is of one
set, `small_sets.py:mnist_rules` or `small_sets.py:mnist_initializers` a part of it.
"""

from typing import Any

from autogrow_jax.studies import Row, Section, Study

from ._parts import select

# Weights are not perturbed as fine-tuning begins: the rules were compared before there was that.
_BASE = {"finetune.perturb": 0.0}
_SMALL = _BASE | {"data.batch_size": 32, "finetune.epochs": 20, "growth.max_epochs": 110}
_SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": ("configs/digits_plain3.py", _BASE | {"growth.max_epochs": 60}),
    "mnist": ("", {"data.name": "mnist", "data.fraction": 0.02, **_SMALL}),
    "cifar10": ("", {"data.name": "cifar10", "data.fraction": 0.04, **_SMALL}),
}
# K, J and the least gain in standard errors.
_RULES = ((3, 100, 0.0), (3, 15, 0.0), (3, 15, 1.0), (3, 6, 1.0), (6, 15, 1.0))

_INITIALIZERS = ("gaussian", "uniform", "default", "morphism", "adam")


def get_study(wanted: str = "") -> Study:
    """See the module's docstring.

    Args:
      wanted: a set, "rules", "initializers", or both, such as "digits_rules"; "" for all.
    """
    makers = {"rules": _make_rules, "initializers": _make_initializers}
    parts = {f"{name}_{what}": (make, name) for name in _SETS for what, make in makers.items()}
    chosen = [parts[part] for part in select(parts, wanted)]
    return Study("Growth that fits small sets", [make(name) for make, name in chosen])


def _make_rules(name: str) -> Section:
    config, base = _SETS[name]
    rows = [
        Row(
            (str(interval), str(window), f"{noise:g}"),
            config,
            {
                **base,
                "growth.interval": interval,
                "growth.window": window,
                "growth.noise": noise,
                "growth.initializer": "gaussian",
                "finetune.choose": "one_se",
                "checkpoint.every": 10,
            },
        )
        for interval, window, noise in _RULES
    ]
    note = (
        "The depths are those of the recommended net; training counts growth and all nets of the"
        " front."
    )
    return Section(f"Plain3Net on {name}", ("K", "J", "noise"), rows, note)


def _make_initializers(name: str) -> Section:
    config, base = _SETS[name]
    rule = {"growth.interval": 3, "growth.window": 100, "growth.noise": 0.0}
    rows = [
        Row(
            (initializer,),
            config,
            {
                **base,
                **rule,
                "growth.max_epochs": 24,
                "growth.initializer": initializer,
                "finetune.front": False,
            },
        )
        for initializer in _INITIALIZERS
    ]
    note = "All grow by the same depths. Epochs of Adam's pre-training count in the seconds only."
    return Section(f"Plain3Net on {name}: initialisers", ("initialiser",), rows, note)
