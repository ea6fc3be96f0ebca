r"""Growth that fits small sets: how far apart growths are, and which gain counts.

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

Each net is fine-tuned for 20 epochs, on digits for 30. Growth takes 110 epochs at most, on digits
60, which J = 100 uses up.

45 cells (5 rows, 3 sets, 3 seeds). `small_sets.py:digits` runs one set.
"""

from typing import Any

from autogrow_jax.errors import UserError
from autogrow_jax.studies import Row, Section, Study

_SMALL = {"data.batch_size": 32, "finetune.epochs": 20, "growth.max_epochs": 110}
_SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": ("configs/digits_plain3.py", {"growth.max_epochs": 60}),
    "mnist": ("", {"data.name": "mnist", "data.fraction": 0.02, **_SMALL}),
    "cifar10": ("", {"data.name": "cifar10", "data.fraction": 0.04, **_SMALL}),
}
# K, J and the least gain in standard errors.
_RULES = ((3, 100, 0.0), (3, 15, 0.0), (3, 15, 1.0), (3, 6, 1.0), (6, 15, 1.0))


def get_study(wanted: str = "") -> Study:
    """See the module's docstring.

    Args:
      wanted: a set, such as "digits"; "" for all.
    """
    if wanted not in ("", *_SETS):
        raise UserError(f"this study has the sets {', '.join(_SETS)}; {wanted!r} is none of them")
    sections = [_make_section(name) for name in _SETS if wanted in ("", name)]
    return Study("Growth that fits small sets", sections)


def _make_section(name: str) -> Section:
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
