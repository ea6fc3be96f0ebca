"""Plain3 and Basic3 written for PyTorch, to be measured against; channels last, as ours."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

_WIDTHS = (16, 32, 64)


def _conv_bn(in_channels: int, channels: int, size: int, stride: int) -> list[nn.Module]:
    pad = (size - 1) // 2
    return [
        nn.Conv2d(in_channels, channels, size, stride, pad, bias=False),
        nn.BatchNorm2d(channels),
    ]


class Plain(nn.Sequential):
    """A 3x3 convolution, batch normalisation, ReLU; [N, C, H, W]."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__(*_conv_bn(in_channels, channels, 3, stride), nn.ReLU(inplace=True))


class Basic(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to the shortcut; [N, C, H, W]."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            *_conv_bn(in_channels, channels, 3, stride),
            nn.ReLU(inplace=True),
            *_conv_bn(channels, channels, 3, 1),
        )
        same = stride == 1 and in_channels == channels
        self.shortcut = nn.Sequential(*([] if same else _conv_bn(in_channels, channels, 1, stride)))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, H, W] to [N, channels, H / stride, W / stride]."""
        return nn.functional.relu(self.residual(x) + self.shortcut(x))


BLOCKS: dict[str, Callable[[int, int, int], nn.Module]] = {"plain3": Plain, "basic3": Basic}


def build_net(
    family: str, depths: Sequence[int], num_classes: int = 10, image_channels: int = 3
) -> nn.Module:
    """What `autogrow_jax.models.build_network` builds, at PyTorch's random start.

    Args:
      family: one of `BLOCKS`.
      depths: blocks in each of the three stages.
      num_classes: width of the logits.
      image_channels: channels of the images.

    Returns:
      A module that maps [N, image_channels, H, W] to logits [N, num_classes].
    """
    layers: list[nn.Module] = [*_conv_bn(image_channels, _WIDTHS[0], 3, 1), nn.ReLU(inplace=True)]
    channels = _WIDTHS[0]
    for stage, (width, depth) in enumerate(zip(_WIDTHS, depths, strict=True)):
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(BLOCKS[family](channels, width, stride))
            channels = width
    net = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
    )
    return net.to(memory_format=torch.channels_last)


class Training:
    """Trains a net on one batch again and again.

    Args:
      net: made by `build_net`; `run` is the same net, compiled where that is wanted.
      images: uint8 [N, H, W, C], given to the net as [N, C, H, W] between 0 and 1.
      labels: whole numbers [N].
      learning_rate: of SGD with the paper's momentum and weight decay.
      run: what to call instead of `net`.
    """

    def __init__(
        self,
        net: nn.Module,
        images: Tensor,
        labels: Tensor,
        learning_rate: float,
        run: Callable[[Tensor], Tensor] | None = None,
    ):
        self._net, self._run = net, run or net
        self._images = (images.permute(0, 3, 1, 2) / 255).contiguous(
            memory_format=torch.channels_last
        )
        self._labels = labels
        self._optimizer = torch.optim.SGD(
            net.parameters(), learning_rate, momentum=0.9, weight_decay=5e-4
        )

    def step(self) -> float:
        """One step on the batch; its loss, in nats an image."""
        self._net.train()
        self._optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(self._run(self._images), self._labels)
        loss.backward()
        self._optimizer.step()
        return float(loss)

    def evaluate(self) -> float:
        """The loss by the running statistics; nothing changes."""
        self._net.eval()
        with torch.inference_mode():
            return float(nn.functional.cross_entropy(self._run(self._images), self._labels))
