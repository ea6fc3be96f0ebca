"""Basic4ResNet on CIFAR10 with the paper's protocol.

python -m autogrow_jax.main --config=configs/cifar10_basic4.py --config.data.dir=DATA

The paper found 22-22-22-22: 95.49 % on the test set, -0.10 points against that net trained
from scratch. One seed, so expect other depths. The protocol is in `paper.py`.
"""

from ml_collections import ConfigDict

from .paper import paper_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return paper_config("basic4", "cifar10")
