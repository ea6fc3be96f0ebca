"""The pack of measurements for a GPU: it goes on whatever becomes of its tasks, on a CPU too."""

import importlib.util
import json
import sys

import pytest
from stand_ins import compile_quickly

from benchmarks import gpu, gpu_report
from benchmarks.gpu import Task

# Stands in for the worker: what it does is the task's name.
_WORKER = """
import json, pathlib, signal, sys, time
given = dict(a.lstrip("-").split("=", 1) for a in sys.argv[1:])
out, task = pathlib.Path(given["out"]), given["task"]
def note(**row):
    with (out / "results.jsonl").open("a") as file:
        file.write(json.dumps({"part": task.partition(":")[0], "task": task, **row}) + "\\n")
if task == "steps:hangs":
    note(form="exact", error="found before it hung")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(100)
if task == "steps:fails":
    sys.exit("it says why")
if task == "steps:later":
    sys.exit(75)
if task == "cell":
    workdir = pathlib.Path(given["workdir"])
    workdir.mkdir(exist_ok=True)
    turns = workdir / "turns"
    turns.write_text(turns.read_text() + "x" if turns.exists() else "x")
    print("turns", turns.read_text())
    time.sleep(100)
print("did", task)
"""
_TASKS = [
    Task("steps:fails", 60, 0),
    Task("steps:hangs", 3, 0),
    Task("steps:works", 60, 0),
    Task("steps:later", 60, 0),
    Task("steps:long", 60, 1000),
    Task("cell", 1000, 0),
]


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Calls the pack with other tasks; returns how each ended, in order."""
    script, out = tmp_path / "worker.py", tmp_path / "out"
    script.write_text(_WORKER)
    monkeypatch.setattr(
        gpu, "_worker", lambda options: [sys.executable, "-S", str(script), f"--out={options.out}"]
    )
    monkeypatch.setattr(gpu, "list_tasks", lambda tiny: _TASKS)
    monkeypatch.setattr(gpu, "_GRACE_SECONDS", 0.3)
    monkeypatch.setattr(gpu, "_RESERVE_SECONDS", 0)
    monkeypatch.setattr(gpu.signal, "signal", lambda *_: None)  # The tests' own stays.

    def make(part, minutes, *arguments):
        before = len(gpu_report.read_rows(out / "results.jsonl"))
        chosen = ["--out", str(out), "--only", part, "--minutes", str(minutes)]
        bad = gpu.main([*chosen, *arguments])
        rows = gpu_report.read_rows(out / "results.jsonl")[before:]
        return bad, [(row["task"], row["state"]) for row in rows if row["part"] == "end"], out

    return make


@pytest.mark.slow
def test_a_task_that_hangs_or_fails_is_noted_and_the_others_go_on(call, capsys):
    bad, ended, out = call("steps", 2)
    later = ("steps:later", "stopped")
    wanted = [("steps:fails", "failed"), ("steps:hangs", "killed"), later]
    assert (bad, ended) == (2, [*wanted[:2], ("steps:works", "done"), later])
    summary, log = (out / "summary.md").read_text(), (out / "log.txt").read_text()
    assert "found before it hung" in summary
    assert "Not done: steps:fails, steps:hangs, steps:later;" in summary
    assert "it says why" in log and "did steps:works" in log
    assert summary in capsys.readouterr().out
    # The same command goes on: what was killed or failed once more, and then not again.
    assert call("steps", 2)[1] == wanted
    assert call("steps", 2)[1] == [later]
    assert call("steps", 2, "--list")[1] == []
    assert capsys.readouterr().out.endswith("\nsteps:later\nsteps:long\n")


@pytest.mark.slow
def test_the_cell_is_stopped_with_the_call_and_goes_on_in_the_next(call):
    for _ in range(2):
        bad, ended, out = call("cell", 0.06)
        assert (bad, ended) == (0, [("cell", "stopped")])
    # Its workdir came along, in one file.
    turns = [x for x in (out / "log.txt").read_text().splitlines() if x.startswith("turns")]
    assert turns == ["turns x", "turns xx"]
    assert sorted(path.name for path in out.iterdir()) == [
        *("cell.tar.gz", "log.txt", "results.jsonl", "summary.md")
    ]


def test_the_first_tasks_say_something_of_every_part():
    tasks = gpu.list_tasks(tiny=False)
    assert len({task.name for task in tasks}) == len(tasks)
    first = list(dict.fromkeys(task.part for task in tasks))
    assert tuple(first) == gpu.PARTS
    # All nets, batches and precisions: 2 x 2 x 2 x 3.
    assert sum(task.part == "steps" for task in tasks) == 24
    assert {task.part for task in gpu.list_tasks(tiny=True)} == set(gpu.PARTS)


def _step(form, milliseconds, **more):
    about = {"family": "plain3", "depths": [20] * 3, "batch": 128, "precision": "bfloat16"}
    work = {"work": {"flops": 1e9, "bytes": 2e9}}
    return {"part": "steps", "task": "t", "form": form, "milliseconds": milliseconds} | (
        about | {"over_eager": milliseconds / 9} | work | more
    )


def test_the_cell_leaves_others_half_of_the_time():
    class Pack:
        left, ran = 100.0, []

        def run(self, task):
            self.ran.append(task.name)
            self.left -= {"correctness:a": 20, "steps:b": 45}.get(task.name, 35)
            return "done"

    tasks = [Task(name, 9, 0) for name in ("correctness:a", "cell", "steps:b", "steps:c")]
    assert gpu.run_tasks(Pack(), tasks) == 0
    # Of the 80 s behind the first task, 40 are the others', of which one was enough.
    assert Pack.ran == ["correctness:a", "steps:b", "cell"]


def test_summary_says_which_form_is_fastest_and_how_far_from_the_limit():
    limits = {"precision": "bfloat16", "bytes_per_second": 1e12, "flops_per_second": 1e15}
    rows = [
        _step("exact", 99.0),
        _step("exact", 4.0),  # The newest counts.
        _step("shared", 6.0),
        _step("pytorch", 9.0),
        {"part": "steps", "task": "t", "form": "pytorch, default", "error": "no compiler"},
        {"part": "roofline", "task": "r", **limits},
        {"part": "cell", "task": "cell", "error": "no data"},
    ]
    summary = gpu_report.summarise(rows)
    assert "`shared` takes 1.50 times that of `exact`" in summary
    assert "`growth.programs` should be `exact`" in summary
    assert "- t, pytorch, default: no compiler" in summary and "- cell: no data" in summary
    lines = [line.split("|") for line in summary.splitlines()]
    cells = [[cell.strip() for cell in line[1:-1]] for line in lines if len(line) > 3]
    assert ["plain3 20-20-20", "128", "bfloat16", "4", "6", "9"] in cells
    assert ["plain3 20-20-20", "128", "bfloat16", "0.444", "0.667", "1"] in cells
    # 2 ms for 2 GB at 1 TB/s, half of the 4 ms that it took.
    assert ["plain3 20-20-20", "128", "bfloat16", "exact", "2", "50"] in cells


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text('{"part": "call", "task": "a"}\n{"part": "st')
    assert gpu_report.read_rows(file) == [{"part": "call", "task": "a"}]
    assert gpu_report.read_rows(tmp_path / "none") == []


def test_forms_are_the_programs_they_say():
    from benchmarks.gpu_steps import FORMS, Cell

    cell = Cell("plain3", 3, 4, "float32", 2)
    loops = {
        name: cell.lower(FORMS[name])[0].as_text().count("stablehlo.while")
        for name in ("exact", "unrolled")
    }
    # Over steps; over the blocks of three stages, forwards and backwards.
    assert loops == {"exact": 7, "unrolled": 1}
    assert "WHILE,CONVOLUTION" in FORMS["exact, graphs"].options["xla_gpu_enable_command_buffer"]


@pytest.mark.slow
def test_the_whole_pack_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", compile_quickly()["XLA_FLAGS"])
    assert gpu.main(["--out", str(tmp_path), "--tiny", "--minutes", "30"]) == 0
    rows = gpu_report.read_rows(tmp_path / "results.jsonl")
    ended = {row["task"]: row["state"] for row in rows if row["part"] == "end"}
    assert set(ended.values()) == {"done"}
    assert set(ended) == {task.name for task in gpu.list_tasks(tiny=True)}
    has_pytorch = importlib.util.find_spec("torch") is not None
    forms = {row["form"] for row in rows if row["part"] == "steps" and "milliseconds" in row}
    assert forms == {"exact", "shared", "unrolled"} | ({"pytorch"} if has_pytorch else set())
    assert all(row["is_right"] for row in rows if "is_right" in row)
    errors = [row["error"] for row in rows if "error" in row]
    assert all("PyTorch is not there" in error for error in errors)
    (cell,) = [row for row in rows if row["part"] == "cell"]
    assert cell["result"]["epochs"] == 3
    assert json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])["command"]
