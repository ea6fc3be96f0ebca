"""State dicts to variables and back; that the networks then agree is in test_models_parity."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autogrow_jax.errors import UserError
from autogrow_jax.interop import torch as torch_interop
from autogrow_jax.models import FAMILIES, Family, build_network, register_family


def _random_variables(family, depths, channels=3, stem="small"):
    network = build_network(family, depths, 5, channels, stem=stem)
    shapes = jax.eval_shape(
        lambda: network.init(jax.random.key(0), jnp.ones((1, 32, 32, channels)))
    )
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda s: generator.random(s.shape, np.float32), shapes)


def _plain3_entries(depths=(2, 1, 1)):
    return torch_interop.state_dict_from_variables(
        "plain3", depths, _random_variables("plain3", depths)
    )


class _Tensor:
    """All that numpy knows of a tensor."""

    def __init__(self, array):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self._array, dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_round_trip_is_exact_bit_for_bit(family):
    depths = (3, 1, 2, 1)[: len(FAMILIES[family].widths)]
    stem = "imagenet" if family in ("basic3", "plain3_nobn") else "small"
    variables = _random_variables(family, depths, channels=2, stem=stem)
    entries = torch_interop.state_dict_from_variables(family, depths, variables)
    assert torch_interop.depths_from_state_dict(family, entries) == depths

    back = torch_interop.variables_from_state_dict(family, depths, entries)
    # Maps and zero-length stacks included.
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(back))
    jax.tree.map(np.testing.assert_array_equal, back, variables)

    again = torch_interop.state_dict_from_variables(family, depths, back)
    assert again.keys() == entries.keys()
    for name, value in entries.items():
        assert again[name].dtype == value.dtype
        np.testing.assert_array_equal(again[name], value)


def test_written_arrays_are_writable_copies_in_c_order():
    variables = jax.tree.map(jnp.asarray, _random_variables("plain3", (2, 1, 1)))
    entries = torch_interop.state_dict_from_variables("plain3", (2, 1, 1), variables)
    for value in entries.values():
        assert value.flags.writeable and value.flags.c_contiguous and value.flags.owndata
    assert entries["bn1.num_batches_tracked"].dtype == np.int64


def test_read_variables_do_not_change_with_the_state_dict():
    entries = _plain3_entries()
    variables = torch_interop.variables_from_state_dict("plain3", (2, 1, 1), entries)
    before = jax.tree.map(np.copy, variables)
    for value in entries.values():
        value[...] = 0
    jax.tree.map(np.testing.assert_array_equal, variables, before)


def test_prefix_counters_and_tensors_are_read_through():
    entries = _plain3_entries()
    expected = torch_interop.variables_from_state_dict("plain3", (2, 1, 1), entries)
    saved = {f"module.{name}": _Tensor(value) for name, value in entries.items()}
    saved["module.bn1.num_batches_tracked"] = _Tensor(np.int64(391))
    del saved["module.layer1.0.bn1.num_batches_tracked"]
    found = torch_interop.variables_from_state_dict("plain3", (2, 1, 1), saved)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert torch_interop.depths_from_state_dict("plain3", saved) == (2, 1, 1)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
def test_a_switch_is_found_under_any_name(shape):
    depths = (2, 1, 1)
    entries = torch_interop.state_dict_from_variables(
        "switch3", depths, _random_variables("switch3", depths)
    )
    expected = torch_interop.variables_from_state_dict("switch3", depths, entries)
    renamed = {
        name.replace(".switch", ".gate.value"): value.reshape(shape)
        if name.endswith(".switch")
        else value
        for name, value in entries.items()
    }
    found = torch_interop.variables_from_state_dict("switch3", depths, renamed)
    jax.tree.map(np.testing.assert_array_equal, found, expected)

    renamed["layer1.1.other"] = np.ones(1)
    with pytest.raises(UserError, match=r"missing: layer1\.1\.switch\n") as raised:
        torch_interop.variables_from_state_dict("switch3", depths, renamed)
    assert "layer1.1.gate.value" in str(raised.value) and "layer1.1.other" in str(raised.value)


def test_all_that_does_not_fit_is_listed():
    entries = _plain3_entries()
    del entries["layer1.1.conv1.weight"], entries["layer3.0.bn1.bias"]
    entries["layer1.0.conv2.weight"] = np.zeros((16, 16, 3, 3))
    entries["linear.bias"] = np.zeros(6)
    with pytest.raises(UserError) as raised:
        torch_interop.variables_from_state_dict("plain3", (2, 1, 1), entries)
    message = str(raised.value)
    missing = message.partition("missing: ")[2].partition("\n")[0]
    assert sorted(missing.split(", ")) == ["layer1.1.conv1.weight", "layer3.0.bn1.bias"]
    assert "unexpected: layer1.0.conv2.weight\n" in message
    assert "wrong shape: linear.bias (6,) instead of (5,)\n" in message


@pytest.mark.parametrize("name", ["conv1.weight", "linear.weight"])
def test_the_entries_that_size_the_network_may_be_missing_too(name):
    entries = _plain3_entries()
    del entries[name]
    with pytest.raises(UserError, match=f"missing: {re.escape(name)}\n"):
        torch_interop.variables_from_state_dict("plain3", (2, 1, 1), entries)


def test_wrong_depths_are_met_with_the_right_ones():
    with pytest.raises(UserError, match=r"depths in its names are \(2, 1, 1\)"):
        torch_interop.variables_from_state_dict("plain3", (1, 1, 1), _plain3_entries())


@pytest.mark.parametrize("value", ["text", None, 1j, [[1.0], [1.0, 2.0]]])
def test_entries_that_are_no_numbers_are_named(value):
    with pytest.raises(UserError, match=r"linear\.bias .*tensor\.detach\(\)\.cpu\(\)\.float\(\)"):
        torch_interop.variables_from_state_dict(
            "plain3", (2, 1, 1), _plain3_entries() | {"linear.bias": value}
        )


def test_a_whole_checkpoint_is_refused_by_name():
    with pytest.raises(UserError, match=r"whole checkpoint.*'net'"):
        torch_interop.variables_from_state_dict(
            "plain3", (2, 1, 1), {"net": _plain3_entries(), "epoch": 3}
        )


def test_variables_of_other_depths_are_refused():
    variables = _random_variables("plain3", (2, 1, 1))
    with pytest.raises(UserError, match=r"stage0/rest/conv1/kernel \(1, .* instead of \(2, "):
        torch_interop.state_dict_from_variables("plain3", (3, 1, 1), variables)
    with pytest.raises(UserError, match="missing: batch_stats/"):
        params = {"params": variables["params"]}
        torch_interop.state_dict_from_variables("plain3", (2, 1, 1), params)
    with pytest.raises(UserError, match="without 'params'"):
        torch_interop.state_dict_from_variables("plain3", (2, 1, 1), variables["params"])


@pytest.mark.parametrize(
    "names",
    [
        ["conv1.weight"],
        ["layer1.0.conv1.weight", "layer2.0.conv1.weight"],
        ["layer1.0.a", "layer2.0.a", "layer4.0.a"],
        ["layer1.0.a", "layer1.2.a", "layer2.0.a", "layer3.0.a"],
    ],
)
def test_depths_need_whole_stages(names):
    with pytest.raises(UserError, match="'plain3' has 3"):
        torch_interop.depths_from_state_dict("plain3", dict.fromkeys(names, 0))


class _NamedLikeOurs(nn.Module):
    features: int
    stride: int = 1
    options: object = None

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.features, (5, 5), (self.stride,) * 2, name="conv1")(x)
        return nn.BatchNorm(not train, name="bn7")(x)


class _NamedOtherwise(_NamedLikeOurs):
    @nn.compact
    def __call__(self, x, train):
        del train
        return nn.Conv(self.features, (3, 3), (self.stride,) * 2, name="mixer")(x)


@pytest.fixture
def register():
    names = []

    def add(name, block):
        register_family(name, Family(block, (4, 8), 4, 0.1, False))
        names.append(name)

    yield add
    for name in names:
        del FAMILIES[name]


def test_a_registered_family_converts_by_the_names_of_its_layers(register):
    register("own", _NamedLikeOurs)
    variables = _random_variables("own", (1, 3))
    entries = torch_interop.state_dict_from_variables("own", (1, 3), variables)
    np.testing.assert_array_equal(
        entries["layer2.2.conv1.weight"],
        variables["params"]["stage1"]["rest"]["conv1"]["kernel"][1].transpose(3, 2, 0, 1),
    )
    assert entries["layer2.0.bn7.running_var"].shape == (8,)
    back = torch_interop.variables_from_state_dict("own", (1, 3), entries)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_a_family_without_such_names_is_refused(register):
    register("own", _NamedOtherwise)
    variables = _random_variables("own", (1, 1))
    with pytest.raises(UserError, match=r"params/stage0/first/mixer/kernel.*conv1, conv2"):
        torch_interop.state_dict_from_variables("own", (1, 1), variables)
