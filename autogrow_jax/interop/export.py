"""A net in the files of other programs: written, and opened again as those programs open it.

All of them take images uint8, pixels 0..255, normalise them, and know the names of the classes.
"""

import json
import logging
import runpy
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export

from autogrow_jax import __version__
from autogrow_jax.data import Preprocessing, normalize
from autogrow_jax.errors import UserError
from autogrow_jax.interop.torch import state_dict_from_variables, variables_from_state_dict
from autogrow_jax.models import Network, blocks
from autogrow_jax.process import quiet

# Images uint8 [N, H, W, C] to probabilities float32 [N, num_classes].
Predict = Callable[[np.ndarray], np.ndarray]
_IN_TORCH = (
    blocks.PlainBlock,
    blocks.PlainBlockNoBN,
    blocks.BasicBlock,
    blocks.SwitchBlock,
    blocks.BottleneckBlock,
)
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# What is understood by runtimes of the last years as well.
_OPSET = 18


class Net(NamedTuple):
    """What is taken elsewhere.

    Attributes:
      network: with convolutions of XLA; computes in float32 elsewhere, whatever it does here.
      variables: its weights and running statistics.
      preprocessing: how images are normalised.
      class_names: in the order of the logits.
      image_shape: height, width and channels of the images it takes.
    """

    network: Network
    variables: Mapping[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    def describe(self) -> dict[str, Any]:
        """What a file says of the net beside its weights, as JSON has it."""
        family = self.network.family
        return {
            "made_by": f"autogrow_jax {__version__}",
            "family": family.name,
            "block": getattr(family.block, "__name__", ""),
            "depths": list(self.network.depths),
            "widths": list(family.widths),
            "stem": self.network.stem,
            "stem_width": family.stem_width,
            "image_shape": list(self.image_shape),
            "class_names": list(self.class_names),
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
        }

    def make_predict(self, variables: Mapping[str, Any] | None = None) -> Callable[..., jax.Array]:
        """Makes the pure function from uint8 images to probabilities, all weights in it."""
        options = self.network.options._replace(dtype=jnp.dtype("float32"), convolution="xla")
        network = self.network.clone(options=options, remat=False)
        weights = jax.tree.map(np.asarray, self.variables if variables is None else variables)

        def predict(images: jax.Array) -> jax.Array:
            logits: Any = network.apply(weights, normalize(images, self.preprocessing))
            return jax.nn.softmax(logits)

        return predict

    def predict(self, variables: Mapping[str, Any] | None = None) -> Predict:
        """The same by JAX here, of these weights or of others."""
        compiled = jax.jit(self.make_predict(variables))
        return lambda images: np.asarray(compiled(images))


# Safetensors can be written without it, and are tried by JAX then.
_HAS_TORCH = find_spec("torch") is not None


class Format(NamedTuple):
    """A kind of file.

    Attributes:
      suffix: of the file.
      what: it is, for people.
      program: the package that opens it.
      needs: packages beside ours, which the extra of the same name installs.
      write: (net, path) writes it; and what lies beside it, whose paths are returned.
      open: (net, path) opens the file by the program it is meant for.
    """

    suffix: str
    what: str
    program: str
    needs: tuple[str, ...]
    write: Callable[[Net, Path], list[Path]]
    open: Callable[[Net, Path], Predict]


def _write_npz(net: Net, path: Path) -> list[Path]:
    """Arrays under the names that Flax gives them, and what is known of the net beside them."""
    weights = traverse_util.flatten_dict(jax.tree.map(np.asarray, dict(net.variables)), sep="/")
    facts = {name: np.asarray(fact) for name, fact in net.describe().items()}
    np.savez(path, **weights, **facts)  # type: ignore[arg-type]
    return []


def _open_npz(net: Net, path: Path) -> Predict:
    with np.load(path, allow_pickle=False) as file:
        facts, content = net.describe(), {name: file[name] for name in file.files}
    weights = {name: array for name, array in content.items() if name not in facts}
    return net.predict(traverse_util.unflatten_dict(weights, sep="/"))


def _state_dict(net: Net) -> dict[str, np.ndarray]:
    family = net.network.family
    if family.block not in _IN_TORCH:
        raise UserError(
            f"{family.name!r} has blocks of its own, which the PyTorch network does not know; onnx,"
            " stablehlo and npz take any net"
        )
    return state_dict_from_variables(family, net.network.depths, net.variables)  # type: ignore


def _write_network(path: Path) -> list[Path]:
    ours = Path(__file__).with_name("torch_network.py")
    return [Path(shutil.copyfile(ours, path.with_name("autogrow_network.py")))]


def _write_safetensors(net: Net, path: Path) -> list[Path]:
    from safetensors.numpy import save_file

    save_file(_state_dict(net), path, {"about": json.dumps(net.describe())})
    return _write_network(path)


def _open_safetensors(net: Net, path: Path) -> Predict:
    if _HAS_TORCH:
        return _open_torch(net, path)
    from safetensors.numpy import load_file

    where = net.network.family, net.network.depths
    return net.predict(variables_from_state_dict(*where, load_file(path)))  # type: ignore


def _write_torch(net: Net, path: Path) -> list[Path]:
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in _state_dict(net).items()}
    torch.save({"about": net.describe(), "state_dict": tensors}, path)
    return _write_network(path)


def _open_torch(net: Net, path: Path) -> Predict:
    import torch

    network = runpy.run_path(str(path.parent / "autogrow_network.py"))["load"](path)

    def predict(images: np.ndarray) -> np.ndarray:
        channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return network.probabilities(torch.from_numpy(channels_first)).numpy()

    return predict


def _write_stablehlo(net: Net, path: Path) -> list[Path]:
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *net.image_shape), np.uint8)
    exported = export.export(jax.jit(net.make_predict()), platforms=_PLATFORMS)(images)
    path.write_bytes(exported.serialize())
    # The file has no room for names.
    names = path.with_name(f"{path.name}.json")  # A JSON file of the same stem may be another.
    names.write_text(json.dumps(net.describe(), indent=1) + "\n")
    return [names]


def _open_stablehlo(net: Net, path: Path) -> Predict:
    call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return lambda images: np.asarray(call(images))


def _write_onnx(net: Net, path: Path) -> list[Path]:
    with quiet("jax2onnx", logging.CRITICAL):  # It tells of what it tries to import.
        import jax2onnx
        import onnx

        model: Any = jax2onnx.to_onnx(
            net.make_predict(),
            [jax.ShapeDtypeStruct(("batch", *net.image_shape), np.uint8)],  # type: ignore
            model_name="autogrow_jax",
            opset=_OPSET,
            input_names=["images"],
            output_names=["probabilities"],
        )
    facts = net.describe().items()
    onnx.helper.set_model_props(model, {name: json.dumps(fact) for name, fact in facts})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return []


def _open_onnx(net: Net, path: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0]


FORMATS = {
    "torch": Format(".pt", "PyTorch", "torch", ("torch",), _write_torch, _open_torch),
    "safetensors": Format(
        ".safetensors",
        "weights for PyTorch, without pickle",
        "torch" if _HAS_TORCH else "jax",
        ("safetensors",),
        _write_safetensors,
        _open_safetensors,
    ),
    "onnx": Format(
        ".onnx",
        "ONNX",
        "onnxruntime",
        ("jax2onnx", "onnx", "onnxruntime"),
        _write_onnx,
        _open_onnx,
    ),
    "stablehlo": Format(
        ".stablehlo", "StableHLO, by jax.export", "jax", (), _write_stablehlo, _open_stablehlo
    ),
    "npz": Format(".npz", "arrays of NumPy", "jax", (), _write_npz, _open_npz),
}
