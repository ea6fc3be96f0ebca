"""Compiled programs on disk: where they go, that they are found, and that nothing depends on it."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from autogrow_jax.config import default_config
from autogrow_jax.process import machine_key
from autogrow_jax.reporting import QuietReporter
from autogrow_jax.training import compilation_cache, loop

_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
_HIT = "/jax/compilation_cache/cache_hits"
_events: list[str] = []
jax.monitoring.register_event_listener(lambda event, **_: _events.append(event))


@pytest.fixture(autouse=True)
def settings():
    """Those of the session come back."""
    before = {name: getattr(jax.config, name) for name in _SETTINGS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    jax_cache.reset_cache()


def _compile(factor):
    compiled = jax.jit(lambda x: jnp.sin(x) * factor).lower(jnp.arange(3.0)).compile()
    return np.asarray(compiled(jnp.arange(3.0)))


def _hits(factor):
    _events.clear()
    _compile(factor)
    return _events.count(_HIT)


def test_a_program_is_found_again(tmp_path):
    folder = compilation_cache.enable(tmp_path)
    assert (_hits(3.0), _hits(3.0), _hits(4.0)) == (0, 1, 0)
    assert len(list(folder.glob("*-cache"))) >= 2


def test_another_machine_or_version_has_a_folder_of_its_own(tmp_path, monkeypatch):
    compilation_cache.enable(tmp_path)
    _compile(3.0)
    monkeypatch.setattr(compilation_cache, "machine_key", lambda: "another")
    assert compilation_cache.enable(tmp_path) == tmp_path / "another"
    assert _hits(3.0) == 0
    monkeypatch.undo()
    assert compilation_cache.enable(tmp_path) == tmp_path / machine_key()
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
    folder = compilation_cache.enable(tmp_path)
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
    assert compilation_cache.choose("") is None
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "told")
    jax.config.update("jax_compilation_cache_dir", None)
    assert compilation_cache.choose("none") is None
    assert jax.config.jax_compilation_cache_dir is None
    assert not list(tmp_path.iterdir())
    wanted = tmp_path / ".cache" / "autogrow_jax" / "compiled" / machine_key()
    assert compilation_cache.choose("") == wanted
    assert jax.config.jax_compilation_cache_dir == str(wanted)


def test_a_folder_that_is_asked_for_goes_before_what_jax_was_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "told"))
    assert compilation_cache.choose("~/mine") == tmp_path / "mine" / machine_key()
    assert (_hits(5.0), _hits(5.0)) == (0, 1)
    assert not (tmp_path / "told").exists()


class _Listener(QuietReporter):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


@pytest.mark.parametrize("name, messages", [("folder", 0), ("file", 1), ("none", 0)])
def test_a_run_keeps_its_programs_where_it_can_and_goes_on_where_not(
    tmp_path, monkeypatch, name, messages
):
    (tmp_path / "file").touch()
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(loop, "_train", lambda *_: jax.config.jax_compilation_cache_dir)
    config, reporter = default_config(), _Listener()
    config.compilation_cache = name if name == "none" else str(tmp_path / name)
    found = loop.run(config, tmp_path / "run", reporter=reporter)
    wanted = str(tmp_path / "folder" / machine_key()) if name == "folder" else before
    assert found == wanted
    assert len(reporter.messages) == messages
    assert all("not kept" in text and str(tmp_path) in text for text in reporter.messages)


def test_what_was_used_least_recently_is_deleted_first(tmp_path, monkeypatch):
    for number, machine in enumerate(["old", "old", machine_key(), machine_key()]):
        file = tmp_path / machine / f"program{number}-cache"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(100))
        os.utime(file, (1e9 + number, 1e9))
    other = tmp_path / machine_key() / "notes.txt"
    other.write_bytes(bytes(1000))
    monkeypatch.setattr(compilation_cache, "MAX_BYTES", 250)
    compilation_cache.enable(tmp_path)
    assert {path.name for path in tmp_path.glob("*/*")} == {
        "program2-cache",
        "program3-cache",
        Path(other).name,
    }
