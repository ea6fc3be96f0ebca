"""Basic4ResNet on ImageNet with the paper's protocol: K = 2, J = 30.

python -m autogrow_jax.main --config=configs/imagenet_basic4.py --config.data.dir=DATA

DATA/imagenet holds train/CLASS/*.JPEG and val/CLASS/*.JPEG. Decoded once to 224x224, the images
take about 200 GB under DATA, or under `data.cache_dir`.

The paper found 12-12-11-11: 76.28 % top-1 on the validation images, +0.43 points against that net
trained from scratch. This config has not been run to its end, and two things differ from the paper:

- Training images are resized on their shorter side, cropped in the centre once, then padded by 28
  zeros and cropped at random. The paper takes a crop of random size and shape from the whole image,
  which is the stronger augmentation and is not built here: expect a lower number. Evaluation
  resizes to 224, not to 256 before the crop of 224.
- Mean and standard deviation are those of the training images, not the usual constants.
"""

from ml_collections import ConfigDict

from .paper import paper_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    config = paper_config("basic4", "folder:imagenet")
    config.model.stem = "imagenet"
    config.data.image_size = 224
    config.data.crop_padding = 28
    config.data.flip = "yes"
    config.data.batch_size = 256
    config.growth.interval = 2
    config.growth.window = 30
    config.optimizer.weight_decay = 1e-4
    config.finetune.epochs = 90
    config.finetune.schedule = "thirds"
    return config
