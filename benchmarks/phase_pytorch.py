"""A growth phase as a PyTorch user writes it: at each growth a deeper net is built, the old one's
values and momentum are copied into it, and training goes on eagerly. For `alone.run_alone`."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autogrow_jax.data import Dataset, Split
from autogrow_jax.models import get_family
from benchmarks.depth_as_data import growth_path
from benchmarks.phases import Record, Stopwatch, go_through, load, make_record
from benchmarks.pytorch_nets import build_net
from benchmarks.step_times import Depths, StepTimes

_NUM_STEM, _NUM_HEAD = 3, 3  # Modules of `build_net` before and after the blocks.


def train_pytorch(
    data: str,
    family: str,
    last: int,
    interval: int,
    batch_size: int,
    settings: dict[str, Any] | None = None,
) -> Record:
    """The phase of `phase_ours.train_ours` by PyTorch, on a GPU where it finds one.

    Args:
      settings: none is heard.
    """
    del settings
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True  # XLA tries algorithms out, too.
    watch = Stopwatch()
    dataset = load(data)
    with tempfile.TemporaryDirectory() as folder:
        net = PyTorchNet(dataset, family, batch_size, Path(folder))
        times, losses = go_through(net, watch, growth_path(last), interval)
        seconds = watch.stop()
    return make_record(seconds, times.by_depth(), net.num_params, 0, losses)


class PyTorchNet:
    """The net, its optimiser and the data, all on one device; a `phases.Rebuilt`.

    Args:
      dataset: loaded.
      family: "plain3" or "basic3".
      batch_size: images a step.
      folder: for the newest checkpoint.
    """

    name = "pytorch"

    def __init__(self, dataset: Dataset, family: str, batch_size: int, folder: Path):
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._family, self._batch_size, self._folder = family, batch_size, folder
        self._channels = dataset.image_shape[2]
        self._learning_rate = get_family(family).learning_rate
        self._mean = torch.tensor(dataset.preprocessing.mean, device=self._device)
        self._std = torch.tensor(dataset.preprocessing.std, device=self._device)
        self._train, self._validation = map(self._place, (dataset.train, dataset.validation))
        self.steps_per_epoch = len(dataset.train.labels) // batch_size
        self._depths: Depths = ()
        self._net: Any = None
        self._optimizer: Any = None

    def _place(self, split: Split) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(np.ascontiguousarray(split.images))
        labels = torch.from_numpy(split.labels.astype(np.int64))
        return images.to(self._device), labels.to(self._device)

    @property
    def num_params(self) -> int:
        """Trainable parameters."""
        return sum(parameter.numel() for parameter in self._net.parameters())

    def grow(self, depths: Depths) -> None:
        net = build_net(self._family, depths, image_channels=self._channels).to(self._device)
        optimizer = torch.optim.SGD(
            net.parameters(), self._learning_rate, momentum=0.9, weight_decay=5e-4
        )
        if self._net is not None:
            carry(self._net, net, self._depths, depths, self._optimizer, optimizer)
        self._net, self._optimizer, self._depths = net, optimizer, depths

    def _batch(self, images: Tensor) -> Tensor:
        # [N, H, W, C] uint8 seen as [N, C, H, W]: channels last in memory, as the net is.
        return ((images / 255 - self._mean) / self._std).permute(0, 3, 1, 2)

    def train_epoch(self, epoch: int, times: StepTimes) -> float:
        images, labels = self._train
        self._net.train()
        generator = torch.Generator().manual_seed(epoch)
        order = torch.randperm(len(labels), generator=generator).to(self._device)
        total = torch.zeros((), device=self._device)
        before = total
        for step in range(self.steps_per_epoch):
            rows = order[step * self._batch_size : (step + 1) * self._batch_size]
            self._optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(self._net(self._batch(images[rows])), labels[rows])
            loss.backward()
            self._optimizer.step()
            total += loss.detach()
            # The step before this one: a GPU always has work waiting.
            float(before)
            before = loss.detach()
            times.tick(step)
        return float(total) / self.steps_per_epoch

    def evaluate(self) -> float:
        images, labels = self._validation
        self._net.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self._device)
        with torch.inference_mode():
            for first in range(0, len(labels), self._batch_size):
                rows = slice(first, first + self._batch_size)
                logits = self._net(self._batch(images[rows]))
                correct += (logits.argmax(1) == labels[rows]).sum()
        return 100 * int(correct) / len(labels)

    def save(self, epoch: int, accuracy: float) -> None:
        state = {"net": self._net.state_dict(), "optimizer": self._optimizer.state_dict()}
        partial = self._folder / "partial.pt"
        torch.save({**state, "epoch": epoch, "accuracy": accuracy}, partial)
        partial.rename(self._folder / "newest.pt")


def carry(
    old: nn.Module,
    new: nn.Module,
    old_depths: Sequence[int],
    new_depths: Sequence[int],
    old_optimizer: torch.optim.Optimizer,
    new_optimizer: torch.optim.Optimizer,
) -> None:
    """Copies values, running statistics and momentum of a net's blocks into a deeper net.

    Args:
      old: made by `build_net`.
      new: likewise, at least as deep in each stage.
      old_depths: blocks in each stage.
      new_depths: likewise.
      old_optimizer: of the old net's parameters.
      new_optimizer: of the new net's; its further blocks start without momentum.
    """
    modules, deeper = list(old.children()), list(new.children())
    pairs = list(zip(modules[:_NUM_STEM], deeper[:_NUM_STEM], strict=True))
    first, first_deeper = _NUM_STEM, _NUM_STEM
    for depth, new_depth in zip(old_depths, new_depths, strict=True):
        blocks = slice(first, first + depth), slice(first_deeper, first_deeper + depth)
        pairs += zip(modules[blocks[0]], deeper[blocks[1]], strict=True)
        first, first_deeper = first + depth, first_deeper + new_depth
    pairs += zip(modules[-_NUM_HEAD:], deeper[-_NUM_HEAD:], strict=True)
    for source, target in pairs:
        target.load_state_dict(source.state_dict())
        for before, after in zip(source.parameters(), target.parameters(), strict=True):
            if before in old_optimizer.state:
                new_optimizer.state[after] = old_optimizer.state[before]
