"""Child processes that end with this one, in whatever way it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def start(command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start it in a group of its own, with its output in `log`. Ctrl-C in the terminal reaches this process alone, which ends it in good order."""
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(env) if env is not None else None,
            start_new_session=True,
            preexec_fn=_end_with_parent(),  # noqa: PLW1509  # one system call, prepared before the fork
        )


def end(process: subprocess.Popen[bytes], timeout: float = 25.0) -> None:
    """Ask it to end, then make it and whatever it started end. Again is harmless."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout)
    _kill_group(process.pid)
    process.wait()


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _end_with_parent() -> Callable[[], None] | None:
    """Linux: the kernel sends SIGTERM to the child when its parent dies, even of SIGKILL. Elsewhere nothing of the kind is there."""
    if sys.platform != "linux":
        return None
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask
