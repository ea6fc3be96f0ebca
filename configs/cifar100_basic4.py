"""Basic4ResNet on CIFAR100 with the paper's protocol.

python -m autogrow_jax.main --config=configs/cifar100_basic4.py --config.data.dir=DATA

The paper found 17-51-16-16: 79.47 % on the test set, +1.22 points against that net trained
from scratch. One seed, so expect other depths. The protocol is in `paper.py`.
"""

from ml_collections import ConfigDict

from .paper import paper_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return paper_config("basic4", "cifar100")
