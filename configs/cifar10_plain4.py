"""Plain4Net on CIFAR10 with the paper's protocol.

python -m autogrow_jax.main --config=configs/cifar10_plain4.py --config.data.dir=DATA

The paper found 17-17-17-17: 94.20 % on the test set, +5.72 points against that net trained
from scratch. One seed, so expect other depths. The protocol is in `paper.py`.
"""

from ml_collections import ConfigDict

from .paper import paper_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return paper_config("plain4", "cifar10")
