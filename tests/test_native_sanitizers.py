"""The kernels stay inside their memory, and their threads out of each other's way."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from autogrow_jax.native import build

FOLDER = Path(build.__file__).parent
SANITIZERS = {"memory": "address,undefined", "threads": "thread"}


def _compile(*arguments):
    compiler = build._find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    command = [*compiler, "-std=c++17", "-pthread", "-Wall", "-Wextra", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("sanitizer", SANITIZERS.values(), ids=SANITIZERS)
def test_kernels_run_clean_under_sanitizers(sanitizer, tmp_path):
    flags = [f"-fsanitize={sanitizer}", "-O1", "-g1"]
    empty = tmp_path / "empty.cc"
    empty.write_text("int main() {}\n")
    if _compile(*flags, str(empty), "-o", str(tmp_path / "empty")).returncode:
        pytest.skip(f"the compiler has no -fsanitize={sanitizer}")
    program, source = tmp_path / "check", Path(__file__).with_name("native_check.cc")
    flags += ["-fno-sanitize-recover=all", "-march=native", "-I", str(FOLDER)]
    built = _compile(*flags, str(source), "-o", str(program))
    assert built.returncode == 0 and not built.stderr, built.stderr
    ran = subprocess.run([program], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.multiprocess
def test_the_compiler_has_nothing_to_say(tmp_path):
    import jax

    for source in build._SOURCES:
        found = _compile("-fsyntax-only", "-isystem", jax.ffi.include_dir(), str(FOLDER / source))
        assert found.returncode == 0 and not found.stderr, found.stderr


def test_the_sources_are_formatted():
    if shutil.which("clang-format") is None:
        pytest.skip("no clang-format")
    sources = [
        *FOLDER.glob("*.h"),
        *FOLDER.glob("*.cc"),
        Path(__file__).with_name("native_check.cc"),
    ]
    command = ["clang-format", "--dry-run", "--Werror", *map(os.fspath, sources)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
