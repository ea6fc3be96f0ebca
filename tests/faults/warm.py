"""A process that runs commands of the package one after another, as its start takes seconds."""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .harness import ROOT, Scenario


class Warm:
    """Runs commands in one process, which is started when it is needed."""

    def __init__(self, scenario: Scenario):
        self._scenario = scenario
        self._process: subprocess.Popen[str] | None = None

    def run(self, arguments: Sequence[str]) -> tuple[int, str]:
        """The exit status of `python -m autogrow_jax ARGUMENTS`, and what it printed."""
        if self._process is None:
            self._process = subprocess.Popen(
                [*self._scenario.python, "-m", "tests.faults.warm"],
                cwd=ROOT,
                env=self._scenario.surroundings(),
                stdin=subprocess.PIPE,
                text=True,
            )
        assert self._process.stdin is not None
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder) / "answer"
            answer.mkdir()
            print(json.dumps([str(answer), list(arguments)]), file=self._process.stdin, flush=True)
            while not (done := answer / "done").exists():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.02)
                    raise AssertionError("the process that runs commands ended")
            return tuple(json.loads(done.read_text()))

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process = None


def main() -> None:
    # Here, so that whoever starts such processes imports no more than it needs.
    from autogrow_jax.main import main as train

    for line in sys.stdin:
        folder, arguments = json.loads(line)
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                status = train(arguments)
            except Exception as error:
                import traceback

                status = 1
                print("Traceback", error, traceback.format_exc())
        draft = Path(folder) / "draft"
        draft.write_text(json.dumps([status, output.getvalue()]))
        draft.rename(draft.with_name("done"))


if __name__ == "__main__":
    main()
