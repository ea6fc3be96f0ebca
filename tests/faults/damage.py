"""Each file that a start reads, damaged in each way: what the run says, and how it ends."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from autogrow_jax.errors import UserError
from autogrow_jax.reporting import Workdir
from autogrow_jax.saving import read_arrays
from autogrow_jax.training.loading import read_candidate

from .harness import SMALL, Bench, Row, Scenario, Started, newest, told
from .warm import Warm

KEPT = Scenario("a front, two checkpoints", SMALL | {"checkpoint.keep": 2})
# The words of a message, where there is one.
_WORDS = ("error:", "damaged", "goes on from", " is gone", "cannot be used", "warning:")
_NOT_READ = {"checkpoints", "plots", "snapshots", ".lock", ".lock-owner"}
_NOT_READ_OF_FINISHED = {"dataset.json", "metrics.jsonl", "train_ids.npy"}
_KINDS: dict[str, Callable[[bytes, np.random.Generator], bytes | None]] = {
    "truncated": lambda content, random: content[: int(random.integers(max(len(content), 1)))],
    "one bit flipped": lambda content, random: _flip(content, random),
    "emptied": lambda content, random: b"",
    "deleted": lambda content, random: None,
}


def _flip(content: bytes, random: np.random.Generator) -> bytes:
    place = int(random.integers(len(content)))
    changed = bytes([content[place] ^ 1 << int(random.integers(8))])
    return content[:place] + changed + content[place + 1 :]


def prepare(bench: Bench, finished: bool) -> Path:
    """The workdir of a run that was killed in its front, or of one that ended."""
    scenario = bench.seeded(KEPT)
    last = max(bench.whole(scenario)["checkpoints"])
    if finished:
        return bench.whole_folder(scenario)
    workdir = bench.folder / "to be hurt"
    with bench.lock:
        if workdir.exists():
            return workdir
        draft = bench.folder / "being made"
        name = rf"epoch_{last - 1}\.orbax-checkpoint-tmp"
        act = {"do": "kill", "folder": str(draft), "number": 1, "name": name}
        statuses, text = Started(scenario, draft, act).end()
        assert statuses == [-9] and newest(draft) == last - 2, f"{statuses}: {text[-2000:]}"
        draft.rename(workdir)
    return workdir


def files_of(workdir: Path) -> list[Path]:
    """What a start reads: the newest checkpoint and whatever else the folder has, but pictures."""
    last = workdir / "checkpoints" / f"epoch_{newest(workdir)}"
    others = (path for path in workdir.glob("*") if path.name not in _NOT_READ)
    found = [last, *others]
    if (workdir / "result.json").exists():  # The others are read by who uses the net.
        found = [path for path in found if path.name not in _NOT_READ_OF_FINISHED]
    files = (path for each in found for path in ([each] if each.is_file() else each.rglob("*")))
    return sorted(path.relative_to(workdir) for path in files if path.is_file())


def damage_each(
    bench: Bench, random: np.random.Generator, source: Path, names: list[Path], warm: Warm
) -> Iterator[Row]:
    """Damages files of a workdir in each way and yields a row for each."""
    scenario = bench.seeded(KEPT)
    is_finished = (source / "result.json").exists()
    run = "finished" if is_finished else "killed in its front"
    for name in names:
        for kind, change in _KINDS.items():
            workdir = bench.folder / f"hurt-{random.integers(2**40)}"
            shutil.copytree(source, workdir)
            before = (workdir / name).read_bytes()
            if (content := change(before, random)) is None:
                (workdir / name).unlink()
            else:
                (workdir / name).write_bytes(content)
            # Of a run that is over a start reads no candidate: it is who loads one that is told.
            by = _load if is_finished and name.parts[0] == "candidates" else _go_on
            then, lost = by(bench, scenario, warm, workdir, name, before)
            then = then.replace(str(workdir), "DIR")
            if lost == "nothing":
                shutil.rmtree(workdir)
            yield [run, f"{_shorten(name)} {kind}", then, lost]


def _shorten(name: Path) -> str:
    """A path with the start of what is a hash of 32 digits in it."""
    return "/".join(f"{part[:6]}..." if len(part) == 32 else part for part in name.parts)


def _go_on(
    bench: Bench, scenario: Scenario, warm: Warm, workdir: Path, name: Path, before: bytes
) -> tuple[str, str]:
    """Starts a damaged run again, brings back what it asks for; what it said, and what was lost."""
    arguments = scenario.arguments(workdir)
    status, text = warm.run(arguments)
    said = told(text, *_WORDS)
    if status:
        assert "error:" in text and "Traceback" not in text, text[-2000:]
        parts = workdir / name, *(workdir / name).parents[:-1]
        if not any(str(part) in text for part in parts if part != workdir):
            return said, "a message that names the file"
        if "delete" in said and name.name in ("result.json", "dataset.json"):
            (workdir / name).unlink(missing_ok=True)
            said += "; deleted"
        elif f"delete {workdir / 'result.json'}" in text:
            (workdir / "result.json").unlink()
            said += "; result.json deleted"
        else:
            (workdir / name).parent.mkdir(parents=True, exist_ok=True)
            (workdir / name).write_bytes(before)
            said += "; brought back"
        status, text = warm.run(arguments)
        if status:
            return said, f"the run, which said: {told(text, 'error:')}"
        said += ", it went on"
    return said, bench.lost(scenario, workdir)


def _load(
    bench: Bench, scenario: Scenario, warm: Warm, workdir: Path, name: Path, before: bytes
) -> tuple[str, str]:
    """Loads a damaged candidate of a run that is over; what was said, and what was lost."""
    status, text = warm.run(scenario.arguments(workdir))
    assert status == 0, text[-2000:]
    whole = bench.folder / f"before-{workdir.name}.npz"
    whole.write_bytes(before)
    wanted = read_arrays(whole)
    try:
        found = read_candidate(Workdir(workdir), wanted.memory["depths"])
    except UserError as error:
        is_named = str(workdir if not (workdir / name).exists() else workdir / name) in str(error)
        return told(str(error), ""), "nothing" if is_named else "a message that names the file"
    finally:
        whole.unlink()
    (workdir / name).write_bytes(before)
    is_same = found.memory == wanted.memory and all(
        np.array_equal(found.arrays[key], array) for key, array in wanted.arrays.items()
    )
    return "what was saved is read", bench.lost(scenario, workdir) if is_same else "a candidate"
