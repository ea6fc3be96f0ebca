"""The paper's protocol, on which its twenty configs and ImageNet's stand.

Wen, Yan, Chen, Li, "AutoGrow: Automatic Layer Growing in Deep Convolutional Networks", KDD 2020,
arXiv 1906.02909. Settings equal to the defaults are written out all the same: a default may change.

Where a run of these configs still differs from the authors' PyTorch code:

- Plain nets: "gaussian" draws a new block's kernel from N(0, 2/fan_in). Their code leaves a plain
  block's usual random start under all four names, which is
  `--config.growth.initializer=default` here.
- The last, smaller batch of an epoch is dropped.
- The random numbers are others, so depths will be too.

The paper's accuracy is the best one on the test set over all epochs: here
`best_validation_accuracy`, as the test set is the validation set. `test_accuracy` is that of the
final weights.
"""

from ml_collections import ConfigDict

from autogrow_jax.config import default_config


def imagenet_config(family: str) -> ConfigDict:
    """The paper's protocol for ImageNet: K = 2, J = 30, 90 epochs of fine-tuning in thirds."""
    config = paper_config(family, "folder:imagenet")
    config.model.stem = "imagenet"
    config.data.image_size = 224
    config.data.stream = "yes"
    config.data.flip = "yes"
    config.data.batch_size = 256
    config.growth.interval = 2
    config.growth.window = 30
    config.optimizer.weight_decay = 1e-4
    config.finetune.epochs = 90
    config.finetune.schedule = "thirds"
    return config


def paper_config(family: str, dataset: str) -> ConfigDict:
    """Periodic growth as in the paper's main table: K = 3, J = 100, Gaussian start.

    Args:
      family: a name of `autogrow_jax.models.FAMILIES`. It decides the learning rate too: 0.1 for
        residual nets, 0.01 for plain ones.
      dataset: what `data.name` takes, such as "cifar10".

    Returns:
      A config that can still be changed.
    """
    config = default_config()
    config.mode = "grow"

    config.model.family = family
    config.model.kernel_init = "torch"
    # What PyTorch did before 1.2; it decides how well deep plain nets train from scratch.
    config.model.bn_scale_init = "uniform"

    config.data.name = dataset
    config.data.batch_size = 128
    # Growth, stop and the reported number all look at the test set.
    config.data.validation = "test"

    config.growth.policy = "periodic"
    config.growth.mode = "group"
    config.growth.interval = 3
    config.growth.window = 100
    config.growth.threshold = 0.05
    config.growth.noise = 0.0
    config.growth.metric = "max"
    config.growth.max_depths = (200,)
    config.growth.initializer = "gaussian"
    config.growth.reset_optimizer = False

    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 5e-4

    config.finetune.epochs = 200
    config.finetune.schedule = "staircase"
    # The paper fine-tunes the last net, and no other.
    config.finetune.front = False
    config.finetune.perturb = 0.0
    return config
