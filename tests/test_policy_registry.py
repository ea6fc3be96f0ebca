"""Policies by name: those of the package, those users register, and what a config makes of them."""

import json
import re

import pytest

from autogrow_jax import main
from autogrow_jax.config import Key, default_config, flatten, make_policy, nest, resolve
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
from autogrow_jax.reporting.workdir import to_json
from autogrow_jax.settings import differences
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


_OF_AVERAGE = {"noise": 0.0, "interval": 1, "window": 15, "metric": "avg"}


def test_noise_is_that_of_the_validation_images():
    """Half a point in ten epochs, of 90 %; of no known number of images nothing is noise."""
    curve = [89.0 + 0.05 * epoch for epoch in range(60)]
    config = _resolve(noise=1.0, interval=2, window=10)
    ended = {n: replay(make_policy(config, *IMAGES, n), curve).finished for n in (0, 100, 100_000)}
    assert ended == {0: False, 100: True, 100_000: False}
    none = make_policy(_resolve(noise=0.0, interval=2, window=10), *IMAGES, 100)
    assert not replay(none, curve).finished


@pytest.mark.parametrize("mode", ["group", "all"])
def test_noise_stalls_nothing_while_a_gain_counts_from_zero(mode):
    """One of 15 images right is 7 % with an error of 8: growth goes on, and finds what follows."""
    config = _resolve(noise=1.0, interval=6, window=15, mode=mode)
    curve = [*[100 / 15] * 13, *[60.0 + 2 * epoch for epoch in range(12)]]
    ended = replay(make_policy(config, *IMAGES, 15), curve)
    assert not ended.finished and len(ended.growth) == 4
    # The paper's rule, of less than the least gain.
    assert replay(make_policy(_resolve(mode="all"), *IMAGES, 15), [0.0] * 9).finished


@pytest.mark.parametrize("mode", ["group", "all"])
def test_noise_does_not_stall_an_average_while_it_counts_from_zero(mode):
    """After one epoch at 60 % it is 3; one standard error of 100 images is 5."""
    config = _resolve(noise=1.0, interval=1, window=15, mode=mode, metric="avg")
    curve = [60.0 + epoch for epoch in range(30)]
    with_noise = replay(make_policy(config, *IMAGES, 100), curve)
    without = replay(make_policy(_resolve(**_OF_AVERAGE, mode=mode), *IMAGES, 100), curve)
    assert not with_noise.finished and with_noise.growth == without.growth


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


# Settings of one's own.


def _register_timid(rest: object = 2) -> list[PolicyArguments]:
    """A policy with settings of each kind; returns what it is made from."""
    seen: list[PolicyArguments] = []
    settings = {
        "gain": 0.5,
        "rest": Key(rest, "a whole number of at least 1", lambda v: v >= 1, "epochs of rest"),
        "patient": False,
        "by": Key("loss", ("loss", "accuracy"), help="what is looked at"),
        "shares": (0.5, 0.25),
    }
    register_policy("timid", lambda given: seen.append(given) or _make_eager(given), settings)
    return seen


def test_a_policy_is_made_with_its_own_settings():
    seen = _register_timid()
    config = default_config()
    config.growth.policy, config.growth.own.timid.gain = "timid", 1
    config.growth.own.timid.shares = [1, 0.5, 0.25]
    resolve(config)
    wanted = {"gain": 1.0, "rest": 2, "patient": False, "by": "loss", "shares": (1.0, 0.5, 0.25)}
    assert seen[-1].settings == wanted
    assert list(map(type, seen[-1].settings["shares"])) == [float] * 3
    with pytest.raises(AttributeError, match="gian"):
        config.growth.own.timid.gian = 2.0


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("timid.gain", "much", r"config\.growth\.own\.timid\.gain is 'much'; it takes a number"),
        ("timid.gain", float("nan"), "it takes a number"),
        ("timid.rest", 0, r"rest is 0; it takes a whole number of at least 1"),
        ("timid.rest", 1.5, "rest is 1.5; it takes a whole number"),
        ("timid.patient", 1, "it takes True or False"),
        ("timid.by", "los", "did you mean 'loss'"),
        ("timid.shares", (0.5, "a"), "it takes a number, or several"),
        ("timid.gian", 1.0, "no config key 'growth.own.timid.gian'; did you mean 'gain'"),
        ("tmiid.gain", 1.0, "no growth policy 'tmiid'; did you mean 'timid'"),
        ("periodic.gain", 1.0, "'periodic' has no settings of its own"),
        ("timid", 3, "no config key 'growth.own.timid'"),
    ],
)
def test_own_settings_are_checked(name, value, message):
    _register_timid()
    with pytest.raises(UserError, match=message):
        _resolve(**{"policy": "timid", f"own.{name}": value})


@pytest.mark.parametrize(
    "default", [None, {"a": 1}, 1j, (1, "a"), ((1,), (2,)), float("nan"), b"1", [[1]]]
)
def test_a_default_that_no_setting_has_is_refused(default):
    register_policy("odd", _make_eager, {"x": default})
    with pytest.raises(UserError, match=r"config\.growth\.own\.odd\.x starts as .*; it takes "):
        _resolve()


def test_a_default_is_one_that_its_key_takes_and_a_name_has_no_dots():
    _register_timid(rest=0)
    with pytest.raises(UserError, match=r"timid\.rest starts as 0; it takes a whole number of at"):
        default_config()
    del POLICIES["timid"]
    register_policy("timid", _make_eager, {"a.b": 1})
    with pytest.raises(UserError, match=r"config\.growth\.own\.timid\.a\.b cannot be a key"):
        default_config()


def test_own_settings_of_the_chosen_policy_are_kept_in_the_config():
    _register_timid()
    chosen = _resolve(**{"policy": "timid", "own.timid.gain": 0.25})
    written = json.loads(to_json(chosen.to_dict()))
    assert written["growth"]["own"]["timid"]["gain"] == 0.25
    assert resolve(written) == chosen
    assert hash(resolve(written)) == hash(chosen)
    assert differences(written, chosen) == []
    # Of another they are checked and passed over: a command line may choose it for comparison.
    other = _resolve(**{"policy": "periodic", "own.timid.gain": 0.25})
    assert other == _resolve()
    assert "own" not in other.to_dict()["growth"]


def test_a_run_goes_on_with_the_settings_that_it_began_with():
    _register_timid()
    old = _resolve(**{"policy": "timid", "own.timid.gain": 0.25}).to_dict()
    new = _resolve(policy="timid")
    assert differences(old, new) == ["growth.own.timid.gain: 0.25 -> 0.5"]
    # A setting that is younger than the run had the value that is now its default.
    del old["growth"]["own"]["timid"]["gain"]
    assert differences(old, new) == []


def test_a_run_is_read_where_its_policy_is_not_registered():
    _register_timid()
    written = json.loads(to_json(_resolve(**{"policy": "timid", "own.timid.rest": 3}).to_dict()))
    del POLICIES["timid"]
    with pytest.raises(UserError, match="policy is 'timid'; Known: periodic"):
        resolve(written)
    read = resolve(written, to_read=True)
    assert (read.growth.policy, read.growth.own["timid"]["rest"]) == ("timid", 3)
    assert resolve(flatten(read), to_read=True) == read


OWN_FILE = """
from autogrow_jax.config import default_config
from autogrow_jax.growth import periodic, register_policy

register_policy(
    "brisk",
    lambda given: periodic(given.seed_depths, interval=given.settings["every"]),
    settings={"every": 4, "twice": False},
)

def get_config():
    config = default_config()
    config.growth.policy = "brisk"
    config.growth.own.brisk.every = 2
    return config
"""


@pytest.mark.parametrize(
    "arguments, every, twice",
    [
        ([], 2, False),
        (["--config.growth.own.brisk.every=7", "--config.growth.own.brisk.twice"], 7, True),
        (["--config.growth.own.brisk.every", "5"], 5, False),
        (["--config.growth.own.brisk.every=x"], r"brisk\.every is 'x'; it takes a whole", None),
        (["--config.growth.own.brisk.evry=1"], "did you mean 'every'", None),
        (["--config.growth.own.brsik.every=1"], "did you mean 'brisk'", None),
    ],
)
def test_the_command_line_reaches_settings_of_a_config_file(
    tmp_path, monkeypatch, capsys, arguments, every, twice
):
    (tmp_path / "own.py").write_text(OWN_FILE)
    runs = []
    monkeypatch.setattr(main, "run", lambda config, *args, **more: runs.append(resolve(config)))
    status = main.main([f"--config={tmp_path / 'own.py'}", *arguments])
    if twice is None:
        assert status == 1
        assert re.search(every, capsys.readouterr().err)
        return
    assert status == 0
    assert runs[0].growth.own == {"brisk": {"every": every, "twice": twice}}


def test_help_and_the_page_of_settings_say_where_own_settings_are(capsys, tmp_path):
    (tmp_path / "own.py").write_text(OWN_FILE)
    with pytest.raises(SystemExit):
        main.main([f"--config={tmp_path / 'own.py'}", "--help"])
    shown = capsys.readouterr().out
    assert "growth.own.POLICY.SETTING" in shown
    assert "--config.growth.own.brisk.every=4" in shown


def test_noise_counts_in_full_for_a_slope_which_has_no_average():
    """Whatever `growth.metric` says: at 50 % of 145 images an error is 4.1 points."""
    curve = [50.0 + 0.2 * epoch for epoch in range(20)]  # 3 points in 15 epochs.
    given = {"policy": "slope", "interval": 2, "window": 15, "noise": 1.0}
    ended = [
        replay(make_policy(_resolve(**given, metric=metric), *IMAGES, 145), curve).growth
        for metric in ("max", "avg")
    ]
    assert ended[0] == ended[1]
