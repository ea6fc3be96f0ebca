"""Plain3 and Basic3 written for PyTorch, to be measured against; channels last, as ours."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
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


def load_variables(net: nn.Module, variables: Mapping[str, Any], depths: Sequence[int]) -> None:
    """Gives a net of `build_net` the values of ours.

    Args:
      net: its parameters are written over.
      variables: of the same family and depths, at exact depth.
      depths: blocks in each stage.

    Raises:
      ValueError: where the nets differ.
    """
    params = variables["params"]
    layers = _conv_bns(params, depths)
    modules = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    with torch.no_grad():
        for conv, bn in zip(modules[::2], modules[1::2], strict=True):
            kernel, normalization = next(layers)
            # [KH, KW, C, F] -> [F, C, KH, KW]
            _copy(kernel["kernel"].transpose(3, 2, 0, 1), conv.weight)
            _copy(normalization["scale"], bn.weight)
            _copy(normalization["bias"], bn.bias)
        if next(layers, None) is not None:
            raise ValueError(f"the net has fewer layers than one of depths {tuple(depths)}")
        (head,) = [m for m in net.modules() if isinstance(m, nn.Linear)]
        _copy(params["head"]["kernel"].T, head.weight)
        _copy(params["head"]["bias"], head.bias)


def _copy(array: np.ndarray, parameter: Tensor) -> None:
    if array.shape != tuple(parameter.shape):
        raise ValueError(f"an array of shape {array.shape} for {tuple(parameter.shape)}")
    parameter.copy_(torch.from_numpy(np.array(array)))


def _conv_bns(params: Mapping[str, Any], depths: Sequence[int]) -> Iterator[tuple[Any, Any]]:
    """Pairs of a convolution's and a normalisation's parameters, in the order of modules."""
    yield params["stem_conv"], params["stem_bn"]
    for stage, depth in enumerate(depths):
        blocks = params[f"stage{stage}"]
        for number in range(depth):
            block = blocks["first"] if number == 0 else _slot(blocks["rest"], number - 1)
            names = [name for name in ("1", "2") if f"conv{name}" in block]
            yield from ((block[f"conv{name}"], block[f"bn{name}"]) for name in names)
            if "shortcut_conv" in block:
                yield block["shortcut_conv"], block["shortcut_bn"]


def _slot(tree: Any, number: int) -> Any:
    if isinstance(tree, Mapping):
        return {name: _slot(value, number) for name, value in tree.items()}
    return tree[number]


class Training:
    """Trains a net on one batch again and again.

    Args:
      net: made by `build_net`, on its device; `run` is the same net, compiled where that is wanted.
      images: uint8 [N, H, W, C], given to the net as [N, C, H, W] between 0 and 1.
      labels: whole numbers [N].
      learning_rate: of SGD with the paper's momentum and weight decay.
      run: what to call instead of `net`.
      dtype: of the computation: "float32", or "bfloat16" by autocast.
    """

    def __init__(
        self,
        net: nn.Module,
        images: Tensor,
        labels: Tensor,
        learning_rate: float,
        run: Callable[[Tensor], Tensor] | None = None,
        dtype: str = "float32",
    ):
        device = next(net.parameters()).device
        self._net, self._run = net, run or net
        self._images = (images.to(device).permute(0, 3, 1, 2) / 255).contiguous(
            memory_format=torch.channels_last
        )
        self._labels = labels.to(device)
        self._optimizer = torch.optim.SGD(
            net.parameters(), learning_rate, momentum=0.9, weight_decay=5e-4
        )
        is_half = dtype == "bfloat16"
        self._cast = lambda: torch.autocast(device.type, torch.bfloat16, enabled=is_half)

    def step(self, count: int = 1) -> float:
        """Trains on the batch `count` times; the mean loss, in nats an image."""
        self._net.train()
        total = torch.zeros((), device=self._labels.device)
        for _ in range(count):
            self._optimizer.zero_grad(set_to_none=True)
            with self._cast():
                loss = nn.functional.cross_entropy(self._run(self._images), self._labels)
            loss.backward()
            self._optimizer.step()
            total += loss.detach()  # Stays on the device: nothing waits for a step.
        return float(total) / count

    def evaluate(self, count: int = 1) -> float:
        """The loss by the running statistics, `count` times; nothing changes."""
        self._net.eval()
        total = torch.zeros((), device=self._labels.device)
        with torch.inference_mode(), self._cast():
            for _ in range(count):
                total += nn.functional.cross_entropy(self._run(self._images), self._labels)
        return float(total) / count
