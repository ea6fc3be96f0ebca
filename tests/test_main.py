"""The command line as a user meets it: its syntax, its errors, its exit status."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from stand_ins import pictures

from autogrow_jax import main
from autogrow_jax.command_line import UsageError, stop_if_signalled
from autogrow_jax.config import default_config, flatten, resolve
from autogrow_jax.errors import UserError
from autogrow_jax.main import parse_arguments
from autogrow_jax.reporting import QuietReporter
from autogrow_jax.reporting.metrics import read
from autogrow_jax.settings import KEYS
from autogrow_jax.settings_files import load_config, parse_value

ROOT = Path(__file__).resolve().parents[1]
# Two epochs on a tenth of the digits.
SMALL = [
    "--config.mode=scratch", "--config.data.fraction=0.1", "--config.data.batch_size=32",
    "--config.num_devices=1", "--config.finetune.epochs=2", "--config.log.progress=false",
]  # fmt: skip


# --- Syntax.


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("model.depths", "2,1,1", (2, 1, 1)),
        ("model.depths", "(2, 1, 1)", (2, 1, 1)),
        ("model.depths", "[2,1,1]", (2, 1, 1)),
        ("model.depths", "2-1-1", (2, 1, 1)),
        ("model.depths", "()", ()),
        ("model.depths", "", ()),
        ("growth.max_depths", "20", (20,)),
        ("growth.max_depths", "(20,)", (20,)),
        ("model.depths", "2,1,x", "2,1,x"),
        ("optimizer.learning_rate", "0.05", 0.05),
        ("optimizer.learning_rate", "1", 1.0),
        ("optimizer.learning_rate", "none", None),
        ("optimizer.learning_rate", "abc", "abc"),
        ("data.validation", "0.2", "0.2"),
        ("data.validation", "test", "test"),
        ("data.batch_size", "64", 64),
        ("data.batch_size", "1.5", "1.5"),
        ("data.crop_padding", "-1", -1),
        ("log.progress", "False", False),
        ("log.progress", "true", True),
        ("log.progress", "maybe", "maybe"),
        ("data.name", "folder:2-1-1", "folder:2-1-1"),
    ],
)
def test_values_are_read_by_their_key(name, text, value):
    assert parse_value(name, text) == value
    assert parse_arguments([f"--config.{name}={text}"]).changes == {name: value}


def test_every_default_is_read_as_it_is_printed():
    for name, value in flatten(resolve(default_config())).items():
        assert parse_value(name, str(value)) == value


def test_arguments_in_any_order_and_form():
    wanted = {"seed": 3, "log.progress": True, "data.crop_padding": -1}
    command = parse_arguments(
        ["--config.seed", "3", "-workdir=w", "--config.data.crop_padding", "-1",
         "--config.log.progress", "--config", "c.py"]
    )  # fmt: skip
    assert (command.config, command.workdir, command.changes) == ("c.py", "w", wanted)
    assert parse_arguments(["--config.seed=1", "--config.seed=3"]).changes == {"seed": 3}


def test_workdir_is_named_after_the_config():
    assert parse_arguments([]).workdir == str(Path("runs/digits_plain3"))
    assert parse_arguments(["--config=a/b.py:x/y"]).workdir == str(Path("runs/b"))


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["--workdri=x"], "unknown option --workdri; did you mean --workdir?"),
        (["--xyzzy"], "--help lists all"),
        (["digits"], "unexpected argument 'digits'"),
        (["--workdir"], "--workdir: expected one argument"),
        (["--config.data.name"], "--config.data.name lacks a value"),
        (["--config.unknown=1"], "no config key 'unknown'"),
        (["--config=a.py", "--config", "b.py"], "--config is given twice"),
        (["--config.batch_size=1"], "did you mean 'data.batch_size'"),
        (["--config.model=plain3"], "group of keys: model.family"),
    ],
)
def test_wrong_arguments(arguments, part, capsys):
    with pytest.raises(UsageError):
        parse_arguments(arguments)
    assert main.main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert part in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", ["--help", "-h", "--helpshort", "--helpfull"])
def test_help_tells_every_key(option, capsys):
    with pytest.raises(SystemExit) as end:
        main.main([option])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "--workdir" in out
    words = " ".join(out.split())
    for name, key in KEYS.items():
        assert f"--config.{name}=" in out
        assert key.help in words


# --- Config files.


def _file(tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_text(text)
    return str(path)


def test_changes_lie_over_the_config_file(tmp_path, monkeypatch):
    name = _file(tmp_path, "def get_config():\n  return {'seed': 1, 'data': {'name': 'svhn'}}\n")
    asked = []
    monkeypatch.setattr(main, "run", lambda config, *args, **more: asked.append(config))
    assert main.main([f"--config={name}", "--config.seed=2"]) == 0
    assert asked == [{"seed": 2, "data": {"name": "svhn"}}]


def test_config_file_with_an_argument(tmp_path):
    name = _file(tmp_path, "def get_config(seed='7'):\n  return {'seed': int(seed)}\n")
    assert load_config(name) == {"seed": 7}
    assert load_config(name + ":11") == {"seed": 11}


@pytest.mark.parametrize(
    "text, part",
    [
        ("def get_config(:\n  pass\n", "line 1: SyntaxError: invalid syntax"),
        ("import nowhere_at_all\n", "line 1: ModuleNotFoundError: No module named"),
        ("x = 1\n", "no function get_config()"),
        ("def get_config():\n  pass\n", "the config is None"),
        ("def get_config():\n  return 3\n", "the config is 3"),
        ("def get_config():\n  return {'seeed': 1}\n", "did you mean 'seed'"),
        ("def get_config():\n  return 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("import sys\n\ndef get_config():\n  sys.exit()\n", "line 4: SystemExit"),
        ("raise SystemExit(0)\n", "line 1: SystemExit: 0"),
        (
            "from autogrow_jax.config import default_config\n\ndef get_config():\n"
            "  config = default_config()\n  config.data.batchsize = 3\n  return config\n",
            'line 5: AttributeError: Key "batchsize" does not exist and cannot be added since the'
            ' config is locked. Did you mean "batch_size" instead of "batchsize"?',
        ),
    ],
)
def test_config_file_that_fails_names_file_and_line(tmp_path, text, part, capsys):
    name = _file(tmp_path, text)
    with pytest.raises(UserError):
        load_config(name)
    assert main.main([f"--config={name}", f"--workdir={tmp_path / 'run'}"]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert name in err
    assert part in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_config_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"did you mean configs/svhn_plain3\.py\?"):
        load_config("configs/svhn_plan3.py")
    with pytest.raises(UserError, match=r"there are: .*digits_plain3\.py"):
        load_config("xyzzy.py")
    with pytest.raises(UserError, match="no config file"):
        load_config(str(tmp_path))
    (tmp_path / "config.txt").write_text("")
    with pytest.raises(UserError, match=r"has to end in \.py"):
        load_config(str(tmp_path / "config.txt"))


# --- Whole runs.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Workdir of a finished run, seldom saved and without TensorBoard."""
    workdir = tmp_path_factory.mktemp("main") / "run"
    arguments = ["--config.checkpoint.every=2", "--config.log.tensorboard=false"]
    arguments += ["--config.log.plot_every=1", "--config.checkpoint.keep=1"]
    with pictures():
        assert main.main([f"--workdir={workdir}", *SMALL, *arguments]) == 0
    return workdir


def test_logging_and_checkpoint_keys(finished):
    assert not (finished / "tensorboard").exists()
    assert [folder.name for folder in (finished / "checkpoints").iterdir()] == ["epoch_2"]
    assert (finished / "plots" / "growth.png").exists()


def test_finished_run_shows_its_result_without_its_data(finished, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("data were loaded")

    monkeypatch.setattr("autogrow_jax.build.load_dataset", refuse)
    assert main.main([f"--workdir={finished}", *SMALL]) == 0
    out, err = capsys.readouterr()
    accuracy = json.loads((finished / "result.json").read_text())["test_accuracy"]
    assert "is finished" in out
    assert f"{accuracy:.2f} %" in out
    assert not err


@pytest.mark.parametrize("how", ["gone", "torn"])
def test_a_finished_run_brings_back_its_lines(finished, tmp_path, how):
    copy = shutil.copytree(finished, tmp_path / "copy")
    metrics = copy / "metrics.jsonl"
    text = metrics.read_text()
    metrics.unlink() if how == "gone" else metrics.write_text(text[:-40])
    assert main.main([f"--workdir={copy}", *SMALL, "--quiet"]) == 0
    assert metrics.read_text() == text


def test_a_quiet_run_prints_nothing_but_mistakes(finished, capfd):
    given = [*SMALL, "--quiet"]
    assert main.main([*given, f"--workdir={finished}"]) == 0
    assert capfd.readouterr() == ("", "")
    assert main.main([*given, f"--workdir={finished}", "--config.seed=7"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")


def test_user_errors_end_with_status_1(finished, capsys):
    assert main.main([f"--workdir={finished}", *SMALL, "--config.seed=5"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "seed: 0 -> 5" in err


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_in_one_line(monkeypatch, capsys, tmp_path, number, status):
    monkeypatch.setattr(main, "run", lambda *_, **__: os.kill(os.getpid(), number))
    before = signal.getsignal(signal.SIGTERM)
    assert main.main([f"--workdir={tmp_path}"]) == status
    assert signal.getsignal(signal.SIGTERM) is before
    err = capsys.readouterr().err
    assert err == f"stopped; the same command goes on from the last checkpoint in {tmp_path}\n"


SMALLER = (
    "smaller are config.data.batch_size with config.gradient_accumulation, config.data.image_size,"
    " config.growth.capacity"
)


@pytest.mark.parametrize(
    "error, status, said",
    [
        (BrokenPipeError(), 141, "stopped, as nobody reads the output any more; "),
        (OSError(errno.ENOSPC, "x", "a.png"), 1, "error: no space left on device for a.png; "),
        (PermissionError(errno.EACCES, "x", "a.png"), 1, "error: permission denied for a.png; "),
        (OSError(errno.EROFS, "x"), 1, "error: read-only file system; "),
        (MemoryError("2 TiB"), 1, f"error: no memory left (2 TiB); {SMALLER}; "),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating"),
            1,
            f"error: no memory left (RESOURCE_EXHAUSTED: Out of memory); {SMALLER}; ",
        ),
    ],
)
def test_what_breaks_outside_ends_in_one_line(monkeypatch, capfd, tmp_path, error, status, said):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(main, "run", fail)
    with (tmp_path / "output").open("w") as output, monkeypatch.context() as changed:
        changed.setattr(sys, "stdout", output)  # Which is closed to all that follows.
        assert main.main([f"--workdir={tmp_path}"]) == status
    how = f"the same command goes on from the last checkpoint in {tmp_path}\n"
    assert capfd.readouterr().err == said + how


def test_a_stop_that_python_dropped_is_not_lost(monkeypatch, tmp_path):
    def drop(*args, **kwargs):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        stop_if_signalled()

    monkeypatch.setattr(main, "run", drop)
    assert main.main([f"--workdir={tmp_path}"]) == 130


def test_faults_of_ours_keep_their_traceback(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(main, "run", fail)
    with pytest.raises(ZeroDivisionError):
        main.main([f"--workdir={tmp_path}"])


# --- Processes.


def _environment():
    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    "argument, status, part",
    [
        ("--config.model.depths=2,1", 1, "such as (2, 2, 2)"),
        ("--config.data.nmae=mnist", 2, "did you mean 'data.name'"),
        ("--config.data.name=nowhere.npz", 1, "nowhere.npz: no such file"),
        ("--config.data.name=tfds:xyzzy", 1, "TFDS has no set 'xyzzy'"),
    ],
)
def test_errors_are_all_that_is_printed(tmp_path, argument, status, part):
    command = [sys.executable, "-m", "autogrow_jax.main", f"--workdir={tmp_path}", argument]
    ended = subprocess.run(
        command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == status
    assert not ended.stdout
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert part in ended.stderr


@pytest.mark.multiprocess
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_streams_that_are_closed_change_no_status(tmp_path, closed):
    run = f'"$0" -m autogrow_jax --workdir="$1" --config.data.nmae=mnist {closed}'
    command = ["sh", "-c", run, sys.executable, tmp_path]
    ended = subprocess.run(
        command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == ("2>" not in closed)


@pytest.mark.multiprocess
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_as_the_interpreter_ends_changes_nothing(number):
    code = (
        f"import atexit, os, signal; atexit.register(os.kill, os.getpid(), {int(number)})\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from autogrow_jax.command_line import leave; leave(0)"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=_environment(), capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.multiprocess
@pytest.mark.parametrize("how", [["-m", "autogrow_jax.main"], ["autogrow", "train"]])
def test_ctrl_c_while_importing_is_one_line(tmp_path, how):
    """Of a module that takes a while, as all of ours would on a slow disk."""
    slow = "import time; print('here', flush=True); time.sleep(60)"
    (tmp_path / "flax.py").write_text(slow)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    # A shell in the background has Ctrl-C ignored.
    code = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        f"os.execv(sys.executable, [sys.executable, *{how}])"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    script = "from autogrow_jax.cli import start; start()"  # As pip writes it.
    (tmp_path / "autogrow").write_text(script)
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "stopped\n")


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_disk_that_is_full_ends_in_one_line_and_the_run_goes_on(tmp_path):
    """A limit on the size of files: what tensorstore may write of a checkpoint, in its threads."""
    arguments = [f"--workdir={tmp_path}", *SMALL, "--config.compilation_cache=none"]
    arguments.append("--config.model.convolution=xla")  # Kernels could not be built either.
    code = (
        "import resource, sys; from autogrow_jax.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        f"sys.exit(main({arguments}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        f"error: file too large for {tmp_path / 'checkpoints'}; the same command goes on from the"
        f" last checkpoint in {tmp_path}\n"
    )
    assert main.main(arguments) == 0
    assert [line["epoch"] for line in read(tmp_path / "metrics.jsonl")] == [0, 1]


@pytest.mark.multiprocess
def test_errors_do_not_wait_for_slow_imports(tmp_path):
    code = (
        "import sys; from autogrow_jax.main import main; main(['--config.model.depths=2,1'])\n"
        "slow = {'sklearn', 'matplotlib', 'tensorflow_datasets', 'tensorflow', 'tensorboardX'}\n"
        "sys.exit(str(slow & sys.modules.keys()) if slow & sys.modules.keys() else 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=_environment(), check=True)


def test_a_stop_after_an_epoch_ends_the_run_before_the_next_one(tmp_path, monkeypatch):
    class Dropped(QuietReporter):
        def end_epoch(self, line):
            if line["epoch"] == 0:
                signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("autogrow_jax.training.loop.ConsoleReporter", lambda **_: Dropped())
    assert main.main([f"--workdir={tmp_path}", *SMALL, "--config.finetune.epochs=5"]) == 143
    assert len(read(tmp_path / "metrics.jsonl")) == 1
    monkeypatch.undo()
    # What came before does not stop the next run.
    assert main.main([f"--workdir={tmp_path}", *SMALL, "--config.finetune.epochs=5"]) == 0


@pytest.mark.multiprocess
@pytest.mark.slow
def test_terminated_run_goes_on(finished, tmp_path):
    """Without the pretence of the test above, so that also what XLA does at the end counts."""
    # What the fixture compiled, and its number of devices, for which it was.
    cache = {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or ""}
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | cache
    command = [sys.executable, "-m", "autogrow_jax.main", f"--workdir={tmp_path}", *SMALL]
    command.append("--config.finetune.epochs=100")
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and metrics.stat().st_size:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 143, err
    # Python may add that it ignored the exception where an object was deleted.
    assert f"stopped; the same command goes on from the last checkpoint in {tmp_path}\n" in err
    done = len(read(metrics))
    assert 0 < done < 100
    assert main.main(command[3:]) == 0
    assert [line["epoch"] for line in read(metrics)] == list(range(100))


def test_an_error_does_not_wait_for_threads_that_will_not_end():
    """As Orbax's do for a folder that could not be made."""
    code = (
        "import threading; from autogrow_jax.command_line import leave;"
        " threading.Thread(target=threading.Event().wait).start(); leave(1)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 1


@pytest.mark.multiprocess
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
def test_a_run_begins_with_its_process_and_not_with_what_a_shell_did_before():
    """The last command of `bash -c "a && b"` is the shell's own process."""
    code = (
        "import sys, time; time.sleep(float(sys.argv[1]))\n"
        "from autogrow_jax.process import process_start\n"
        "print(time.perf_counter() - process_start())"
    )
    ages = []
    for before in ("", "sleep 2 &&"):
        command = ["sh", "-c", f'{before} exec "$0" "$@"', sys.executable, "-c", code]
        command.append("0" if before else "2")
        ended = subprocess.run(command, env=_environment(), capture_output=True, check=True)
        ages.append(float(ended.stdout))
    with_what_it_did, without_what_the_shell_did = ages
    assert without_what_the_shell_did < 2 < with_what_it_did
