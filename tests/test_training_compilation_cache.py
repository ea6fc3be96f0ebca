"""Compiled programs on disk: where they go, that they are found, and that nothing depends on it."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache
from stand_ins import Told

from autogrow_jax.config import default_config
from autogrow_jax.process import machine_key
from autogrow_jax.steps import programs
from autogrow_jax.steps.programs import Programs, choose_folder, keep_in
from autogrow_jax.training import run

_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
_HIT = "/jax/compilation_cache/cache_hits"
_events: list[str] = []
jax.monitoring.register_event_listener(lambda event, **_: _events.append(event))


@pytest.fixture(autouse=True, scope="module")
def traced_once():
    """What JAX does is looked at here."""


@pytest.fixture(autouse=True)
def settings():
    """Those of the session come back."""
    before = {name: getattr(jax.config, name) for name in _SETTINGS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    jax_cache.reset_cache()


def _compile(factor):
    """Calls a program through another `Programs` each time, as another process would."""
    x = jnp.arange(3.0)
    return np.asarray(Programs().call("sine", lambda x: jnp.sin(x) * factor, x))


def _hits(factor):
    _events.clear()
    _compile(factor)
    return _events.count(_HIT)


def test_a_program_is_found_again(tmp_path):
    folder = keep_in(tmp_path)
    assert (_hits(3.0), _hits(3.0), _hits(4.0)) == (0, 1, 0)
    assert len(list(folder.glob("*-cache"))) >= 2


def test_another_machine_or_version_has_a_folder_of_its_own(tmp_path, monkeypatch):
    keep_in(tmp_path)
    _compile(3.0)
    monkeypatch.setattr(programs, "machine_key", lambda: "another")
    assert keep_in(tmp_path) == tmp_path / "another"
    assert _hits(3.0) == 0
    monkeypatch.undo()
    assert keep_in(tmp_path) == tmp_path / machine_key()
    assert _hits(3.0) == 1


def test_the_machine_is_its_jaxlib_and_its_processor(monkeypatch):
    before = machine_key()
    monkeypatch.setattr("autogrow_jax.process.metadata.version", lambda name: "99.0")
    assert machine_key() != before
    monkeypatch.undo()
    assert machine_key() == before
    monkeypatch.setattr("autogrow_jax.process._cpu_features", lambda: "flags: sse")
    assert machine_key() != before


@pytest.mark.parametrize("damage", [lambda _: b"", lambda b: b[: len(b) // 2], lambda b: b[::-1]])
def test_a_damaged_program_is_compiled_again(tmp_path, damage):
    folder = keep_in(tmp_path)
    expected = _compile(3.0)
    for file in folder.glob("*-cache"):
        file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match="persistent compilation cache"):
        found = _compile(3.0)
    np.testing.assert_array_equal(found, expected)


def test_where_programs_go_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    # Told already, as by JAX_COMPILATION_CACHE_DIR.
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "told"))
    assert choose_folder("") is None
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "told")
    jax.config.update("jax_compilation_cache_dir", None)
    assert choose_folder("none") is None
    assert jax.config.jax_compilation_cache_dir is None
    assert not list(tmp_path.iterdir())
    wanted = tmp_path / ".cache" / "autogrow_jax" / "compiled" / machine_key()
    assert choose_folder("") == wanted
    assert jax.config.jax_compilation_cache_dir == str(wanted)


def test_a_folder_that_is_asked_for_goes_before_what_jax_was_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "told"))
    assert choose_folder("~/mine") == tmp_path / "mine" / machine_key()
    assert (_hits(5.0), _hits(5.0)) == (0, 1)
    assert not (tmp_path / "told").exists()


@pytest.mark.parametrize("name, messages", [("folder", 0), ("file", 1), ("none", 0)])
def test_a_run_keeps_its_programs_where_it_can_and_goes_on_where_not(
    tmp_path, monkeypatch, name, messages
):
    (tmp_path / "file").touch()
    before = jax.config.jax_compilation_cache_dir
    # The module, which the function of its name hides.
    loop = sys.modules[run.__module__]
    monkeypatch.setattr(loop, "_train", lambda *_: jax.config.jax_compilation_cache_dir)
    config, reporter = default_config(), Told()
    config.compilation_cache = name if name == "none" else str(tmp_path / name)
    found = run(config, tmp_path / "run", reporter=reporter)
    wanted = str(tmp_path / "folder" / machine_key()) if name == "folder" else before
    assert found == wanted
    assert len(reporter.messages) == messages
    assert all("not kept" in text and str(tmp_path) in text for text in reporter.messages)


def test_what_was_used_least_recently_is_deleted_first(tmp_path, monkeypatch):
    folder = keep_in(tmp_path)
    for factor in (6.0, 7.0):
        _compile(factor)
    assert _hits(6.0) == 1  # Used after the other.
    sizes = [file.stat().st_size for file in folder.glob("*-cache")]
    # An entry says how long its program took to compile, so its size is not the same each time.
    size = sum(sizes) + min(sizes) // 2
    monkeypatch.setattr(programs, "_MAX_BYTES", size)
    jax_cache.reset_cache()
    keep_in(tmp_path)
    _compile(8.0)
    assert sum(file.stat().st_size for file in folder.glob("*-cache")) <= size
    assert (_hits(6.0), _hits(7.0)) == (1, 0)


def test_a_folder_of_before_or_of_a_killed_process_takes_programs(tmp_path):
    """Where a program lies without the time of its last use, JAX would keep no more of them."""
    folder = keep_in(tmp_path)
    _compile(6.0)
    for file in folder.glob("*-atime"):
        file.unlink()
    jax_cache.reset_cache()
    keep_in(tmp_path)
    assert (_hits(7.0), _hits(7.0), _hits(6.0)) == (0, 1, 1)
