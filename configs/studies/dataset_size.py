r"""Dataset size 100, 75, 50 and 25 %: as published, and two controls that the paper lacks.

python -m autogrow_jax.studies --study=configs/studies/dataset_size.py \
    --workdir=runs/dataset_size --config.data.dir=DATA

The paper trains on a random r of the training images and scales K by 1/r (3, 4, 6, 12), so that a
new block is trained on as many images; it finds shallower nets for smaller sets. But J = 100 stays,
and with it changes the floor: the depth that growth reaches on a curve that never rises, as nothing
can stop before J epochs are over. On Plain4 SVHN the floor falls from 40 blocks to 15, and the
paper found 47 to 20. So the published rows cannot tell a smaller set from a lower floor. Two
controls can:

- J scaled too: K and J both by 1/r. The floor stays where it was.
- K fixed: K = 3 and J = 100 at every size. The floor stays too, and growth takes fewer steps.

If the set's size were what decides, nets would get shallower in the controls as well; if the floor,
only in the published rows. The column "floor" is computed by replaying the policy on a flat curve.

120 cells (4 rows at 100 %, which all sections share, and 36 others, 3 seeds), about 1.4e19 FLOP if
depths are as in the paper: two or three weeks of one GPU at 10 TFLOP/s, three quarters of it
Basic4 on CIFAR100. `dataset_size.py:mnist_plain3` runs one network on its set.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from autogrow_jax.config import Settings, flatten, make_policy, nest, resolve
from autogrow_jax.growth import replay
from autogrow_jax.reporting.numbers import format_depths
from autogrow_jax.settings_files import load_config
from autogrow_jax.studies import Published, Row, Section, Study

from ._parts import config_of, names_of, select
from ._published import DATASET_SIZE

COLUMNS = ("net", "set", "data", "K", "J", "floor")
PERCENTS = (100, 75, 50, 25)


@dataclasses.dataclass(frozen=True)
class Net:
    """A network on a set, whose training images are made fewer.

    Attributes:
      names: network and set, as they stand in the table.
      config: a config file.
      overrides: laid over it.
      published: by percentage of the training set, what the paper found.
    """

    names: tuple[str, str]
    config: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    published: Mapping[int, Published] = dataclasses.field(default_factory=dict)


def get_study(wanted: str = "") -> Study:
    """See the module's docstring.

    Args:
      wanted: a set, a network or both, such as "mnist_plain3"; "" for all.
    """
    nets = [
        Net(names_of(part), config_of(part), {}, DATASET_SIZE[part])
        for part in select(DATASET_SIZE, wanted)
    ]
    return Study("Dataset size", make_sections(nets, PERCENTS))


def make_sections(
    nets: Sequence[Net], percents: Sequence[int], scaled: Sequence[str] = ()
) -> list[Section]:
    """The published study and its two controls.

    Args:
      nets: a block of rows each.
      percents: parts of the training images that the config of a net uses.
      scaled: keys beside the section's own that are scaled by 1/r in all three, such as limits in
        epochs that would otherwise end growth before the policy does.

    Returns:
      Sections of `len(nets) * len(percents)` rows each.
    """
    published = (
        "As published: K is scaled by 1/r and J is not, so the floor, the depth reached on a flat"
        " curve, sinks with the size of the set."
    )
    window_too = (
        "Control: J is scaled like K, so the floor stays. Nets that are shallower all the same owe"
        " it to the smaller set."
    )
    fixed = (
        "Control: neither K nor J is scaled, so the floor stays, and a block is added every K"
        " epochs, of fewer steps each."
    )
    sections = (
        ("Dataset size, K scaled", published, ("growth.interval",), True),
        ("Dataset size, K and J scaled", window_too, ("growth.interval", "growth.window"), False),
        ("Dataset size, K fixed", fixed, (), False),
    )
    return [
        Section(
            title,
            COLUMNS,
            [
                _make_row(net, percent, (*keys, *scaled), with_published)
                for net in nets
                for percent in percents
            ],
            note,
            x="data",
        )
        for title, note, keys, with_published in sections
    ]


def _make_row(net: Net, percent: int, scaled: Sequence[str], with_published: bool) -> Row:
    whole = flatten(load_config(net.config)) | dict(net.overrides)
    overrides = dict(net.overrides)
    overrides["data.fraction"] = whole["data.fraction"] * percent / 100
    overrides |= {key: round(whole[key] * 100 / percent) for key in scaled}
    settings = resolve(nest(whole | overrides))
    names = (
        *net.names,
        f"{percent} %",
        str(settings.growth.interval),
        str(settings.growth.window),
        format_depths(find_floor(settings)),
    )
    # At full size all three are the published run.
    published = net.published.get(percent) if with_published or percent == 100 else None
    return Row(names, net.config, overrides, published=published)


def find_floor(settings: Settings) -> tuple[int, ...]:
    """The depths that the policy reaches where accuracy never rises.

    No run with these settings finds a shallower net, unless accuracy stays below the threshold or a
    limit on depths or epochs ends growth first.
    """
    flat = itertools.repeat(50.0, settings.growth.max_epochs + settings.growth.interval)
    return replay(make_policy(settings), flat).depths
