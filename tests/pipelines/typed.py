"""Commands as a user types them."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.cli.main import main

LIKENESS = (sys.executable, "-m", "pipelines.cli.main")


@dataclass
class Done:
    """What a command printed, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


def likeness(*words: str | Path, workspace: Path | None = None, code: int = 0) -> Done:
    """Run a command as typed, in this process (a process of its own would spend seconds on imports), and check its exit code."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["likeness", *map(str, words)])
        if workspace:
            patch.setenv("LIKENESS_WORKSPACE", str(workspace))
        with pytest.raises(SystemExit) as ended:
            main()
    returned = ended.value.code if isinstance(ended.value.code, int) else int(bool(ended.value.code))
    done = Done(returned, out.getvalue(), err.getvalue())
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done
