"""The network that an autogrow_jax run found, in PyTorch. This file needs torch and nothing else.

    from autogrow_network import load

    network = load("photos.pt")  # Or "photos.safetensors", with the package safetensors.
    probabilities = network.probabilities(images)  # Pixels 0..255, [N, C, H, W] of network.size.
    names = [network.class_names[k] for k in probabilities.argmax(1)]

Called, the network gives logits. Normalisation is the first thing it does. It can be trained on.
"""

import json

import torch
from torch import Tensor, nn

EPSILON, MOMENTUM = 1e-5, 0.1  # Of batch normalisation; the latter is a new batch's share.


def conv_bn(inputs: int, outputs: int, size: int, stride: int = 1) -> tuple[nn.Conv2d, nn.Module]:
    """Makes a convolution, padded so as to keep the size, and its batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, size, stride, (size - 1) // 2, bias=False)
    return conv, nn.BatchNorm2d(outputs, EPSILON, MOMENTUM)


def make_shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Makes what a block adds its output to: its input, projected where the shapes differ."""
    same = stride == 1 and inputs == outputs
    return nn.Sequential(*(() if same else conv_bn(inputs, outputs, 1, stride)))


class PlainBlock(nn.Module):
    """One 3x3 convolution, batch normalisation, ReLU; no shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, outputs, 3, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn1(self.conv1(x)))


class PlainBlockNoBN(nn.Module):
    """One 3x3 convolution with bias, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv1(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, outputs, 3, stride)
        self.conv2, self.bn2 = conv_bn(outputs, outputs, 3)
        self.shortcut = make_shortcut(inputs, outputs, stride)

    def residual(self, x: Tensor) -> Tensor:
        """What is added to the shortcut."""
        return self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


class SwitchBlock(BasicBlock):
    """A `BasicBlock` whose residual branch is multiplied by a learnt scalar."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride)
        self.switch = nn.Parameter(torch.ones(1))

    def residual(self, x: Tensor) -> Tensor:
        return self.switch * super().residual(x)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions, the last four times as wide."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, outputs // 4, 1)
        self.conv2, self.bn2 = conv_bn(outputs // 4, outputs // 4, 3, stride)
        self.conv3, self.bn3 = conv_bn(outputs // 4, outputs, 1)
        self.shortcut = make_shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


BLOCKS = (PlainBlock, PlainBlockNoBN, BasicBlock, SwitchBlock, BottleneckBlock)


class Network(nn.Module):
    """A stem, stages of blocks, the mean over pixels, a linear layer; built from `about`.

    Attributes:
      class_names: in the order of the logits.
      size: height and width that images are to have.
      about: all that is known of the network, as it was written.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, about: dict) -> None:
        super().__init__()
        self.about, self.class_names = about, list(about["class_names"])
        *self.size, channels = about["image_shape"]
        for name in ("mean", "std"):
            values = torch.tensor(about[name], dtype=torch.float32).reshape(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)
        block = {kind.__name__: kind for kind in BLOCKS}[about["block"]]
        width, is_large = about["stem_width"], about["stem"] == "imagenet"
        size, stride = (7, 2) if is_large else (3, 1)
        if block is PlainBlockNoBN:
            self.conv1 = nn.Conv2d(channels, width, size, stride, (size - 1) // 2)
            self.bn1: nn.Module = nn.Identity()
        else:
            self.conv1, self.bn1 = conv_bn(channels, width, size, stride)
        self.pool = nn.MaxPool2d(3, 2, 1) if is_large else nn.Identity()
        self.stages = len(about["depths"])
        stages = zip(about["depths"], about["widths"], strict=True)
        for stage, (depth, outputs) in enumerate(stages):
            first = block(width, outputs, 1 if stage == 0 else 2)
            rest = (block(outputs, outputs, 1) for _ in range(depth - 1))
            setattr(self, f"layer{stage + 1}", nn.Sequential(first, *rest))
            width = outputs
        self.linear = nn.Linear(width, len(self.class_names))

    def forward(self, images: Tensor) -> Tensor:
        """Maps pixels 0..255 of any type, [N, C, H, W], to logits [N, classes]."""
        x = (images.to(self.linear.weight.dtype) / 255 - self.mean) / self.std
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.linear(x.mean((2, 3)))

    def probabilities(self, images: Tensor) -> Tensor:
        """Gives the probability of each class, [N, classes], without a gradient."""
        with torch.inference_mode():
            return torch.softmax(self(images), 1)


def load(path: str) -> Network:
    """Loads the network of a file that `autogrow export` wrote, ready to predict."""
    if str(path).endswith(".safetensors"):
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    else:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        about, weights = saved["about"], saved["state_dict"]
    network = Network(about)
    network.load_state_dict(weights)
    return network.eval()
