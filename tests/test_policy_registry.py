"""Policies by name: those of the package, those users register, and what a config makes of them."""

import pytest

from autogrow_jax.config import default_config, make_policy, nest, resolve
from autogrow_jax.errors import UserError
from autogrow_jax.growth import (
    POLICIES,
    Decision,
    PolicyArguments,
    periodic,
    register_policy,
    replay,
)
from autogrow_jax.models import build_network, estimate_cost
from autogrow_jax.settings_files import load_config

IMAGES: tuple[tuple[int, int, int], int] = ((8, 8, 1), 10)


@pytest.fixture(autouse=True)
def registry():
    """Takes back what is registered during a test."""
    before = set(POLICIES)
    yield
    for name in POLICIES.keys() - before:
        del POLICIES[name]


def _resolve(**changes):
    return resolve(nest({f"growth.{name}": value for name, value in changes.items()}))


def _run(policy, epochs):
    """What a policy says on a curve that rises for ever."""
    state, said = policy.init(), []
    for epoch in range(1, epochs + 1):
        measurements = {"train_accuracy": float(epoch), "seconds": epoch, "latency": 0.001}
        state, decision = policy.update(state, float(epoch), measurements=measurements)
        said.append(decision)
    return said


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_config_makes_every_policy_it_names(name):
    config = _resolve(policy=name, interval=2, max_epochs=30, max_depths=4)
    policy = make_policy(config, *IMAGES)
    assert policy.name == name
    assert policy.seed_depths == (1, 1, 1)
    said = _run(policy, 30)
    assert said[-1].action == "finetune"
    assert max(said[-1].depths) <= 4


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_config_limits_every_policy_it_names(name):
    network = build_network("plain3", (1, 1, 1), num_classes=10, image_channels=1)
    limit = estimate_cost(network, (8, 8, 1), (3, 2, 1)).num_params
    config = _resolve(policy=name, interval=2, threshold=0.0, price=0.0, max_params=limit)
    for decision in _run(make_policy(config, *IMAGES), 60):
        assert estimate_cost(network, (8, 8, 1), decision.depths).num_params <= limit


def test_a_limit_of_a_config_counts_flops_not_multiply_adds():
    network = build_network("plain3", (1, 1, 1), num_classes=10, image_channels=1)
    found = estimate_cost(network, (8, 8, 1), (2, 1, 1))
    at_most = _run(make_policy(_resolve(interval=1, max_flops=2 * found.macs), *IMAGES), 9)
    assert at_most[-1] == Decision("finetune", (2, 1, 1))
    less = _run(make_policy(_resolve(interval=1, max_flops=2 * found.macs - 1), *IMAGES), 9)
    assert less[-1] == Decision("finetune", (1, 1, 1))


def test_efficiency_of_a_config_weighs_multiply_adds():
    config = _resolve(policy="efficiency", interval=1)
    network = build_network("plain3", (1, 1, 1), num_classes=10, image_channels=1)
    policy = make_policy(config, *IMAGES)
    state = policy.init()
    for accuracy in (50.0, 51.0):
        state, _ = policy.update(state, accuracy)
    assert [entry[1] for entry in state["metric"]] == [
        estimate_cost(network, (8, 8, 1), depths).macs for depths in ((1, 1, 1), (2, 1, 1))
    ]


@pytest.mark.parametrize(
    "changes",
    [dict(policy="efficiency"), dict(max_params=1e5), dict(max_flops=1e9)],
)
def test_what_weighs_costs_is_built_without_images_but_not_begun(changes):
    policy = make_policy(_resolve(**changes))
    with pytest.raises(UserError, match="give make_policy their shape and the number of classes"):
        policy.update(policy.init(), 50.0)


def test_a_seed_net_beyond_a_limit_is_found_when_the_images_are_known():
    policy = make_policy(_resolve(max_params=1000), *IMAGES)
    with pytest.raises(UserError, match=r"parameters, above max_params=1,000; raise the limit"):
        policy.init()


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(policy="lookahead", mode="all"), "'lookahead' does not try; it needs mode='group'"),
        (dict(policy="lookahead", interval=1), "lookahead needs an interval of at least 2"),
        (dict(policy="slope", mode="sub"), "mode='sub' needs sub"),
    ],
)
def test_settings_a_policy_cannot_take_name_the_config(changes, message):
    with pytest.raises(UserError, match=f"^config.growth: .*{message}"):
        _resolve(**changes)


# Of one's own.


def _make_eager(arguments: PolicyArguments):
    return periodic(arguments.seed_depths, arguments.growth.max_depths, interval=1)


def test_a_registered_policy_is_one_that_configs_name():
    with pytest.raises(UserError, match=r"'eager'.*Known: periodic, convergent"):
        _resolve(policy="eager")
    register_policy("eager", _make_eager)
    assert POLICIES.find("eager") is _make_eager
    policy = make_policy(_resolve(policy="eager", max_depths=2))
    assert replay(policy, [1, 2, 3, 4]).depths == (2, 2, 2)
    with pytest.raises(UserError, match="did you mean 'eager'"):
        _resolve(policy="eagre")


def test_a_name_is_given_once():
    register_policy("eager", _make_eager)
    for name in ("eager", "periodic"):
        with pytest.raises(UserError, match=f"there is a growth policy '{name}' already"):
            register_policy(name, _make_eager)
    with pytest.raises(UserError, match="did you mean 'periodic'"):
        POLICIES.find("peroidic")


def test_a_config_file_registers_its_own_policy(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from autogrow_jax.config import default_config\n"
        "from autogrow_jax.growth import periodic, register_policy\n"
        "register_policy('own', lambda given: periodic(given.seed_depths, interval=1))\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.growth.policy = 'own'\n"
        "    return config\n"
    )
    policy = make_policy(resolve(load_config(str(file))))
    assert replay(policy, [1, 2]).growth == [(1, (2, 1, 1)), (2, (2, 2, 1))]


def test_the_arguments_of_a_policy_are_those_of_the_config():
    seen: list[PolicyArguments] = []
    register_policy("seen", lambda given: seen.append(given) or _make_eager(given))
    config = default_config()
    config.growth.policy, config.seed, config.model.depths = "seen", 7, (2, 1, 1)
    config.growth.window = 12
    make_policy(resolve(config), *IMAGES)
    given = seen[-1]
    assert (given.seed, given.seed_depths, given.growth.window) == (7, (2, 1, 1), 12)
    network = build_network("plain3", (1, 1, 1), num_classes=10, image_channels=1)
    assert given.cost((3, 1, 2)) == estimate_cost(network, (8, 8, 1), (3, 1, 2))
    assert given.shared()["interval"] == given.growth.interval
