"""Runs a command of the package and does something just before one of its operations on files.

python -m tests.faults.child SPEC ARGUMENTS...

SPEC is JSON: what to `do`, in the `number`th operation (from 1) that changes something below
`folder` and whose path there matches the regular expression `name`:

  kill    SIGKILL to this process
  count   nothing; at the end writes the number of operations to the file `counted`
  fill    fills the file system of `disk`, but for `left` bytes
  lock    takes the right to write to `disk`, a folder, from all
"""

import json
import os
import re
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

_CHANGING = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}


def fill(disk: Path, left: int) -> None:
    """Leaves so many bytes on a file system."""
    found = os.statvfs(disk)
    free = found.f_bavail * found.f_frsize - left
    if free > 0:
        with open(disk / "ballast", "ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), free)


class Hook:
    """Counts operations and acts in one of them."""

    def __init__(self, spec: dict[str, Any]):
        self._spec, self.seen, self._is_acting = spec, 0, False
        self._folder, self._name = spec["folder"], re.compile(spec.get("name", ""))

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._is_acting or (event not in _CHANGING and event != "open"):
            return
        path = arguments[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        path = os.path.abspath(os.fsdecode(path))
        writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & writes):
            return
        if not path.startswith(self._folder) or not self._name.search(path[len(self._folder) :]):
            return
        self.seen += 1
        if self.seen == self._spec.get("number"):
            self._is_acting = True
            self._act()

    def _act(self) -> None:
        match self._spec["do"]:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "fill":
                fill(Path(self._spec["disk"]), self._spec["left"])
            case "lock":
                os.chmod(self._spec["disk"], 0o555)


def main() -> None:
    spec = json.loads(sys.argv.pop(1))
    hook = Hook(spec)
    sys.addaudithook(hook)
    sys.argv[0] = "autogrow_jax"
    try:
        runpy.run_module("autogrow_jax", run_name="__main__", alter_sys=True)
    finally:
        if counted := spec.get("counted"):
            Path(counted).write_text(str(hook.seen))


if __name__ == "__main__":
    main()
