"""Named moments at which a fault test ends this process (FAULT-P1). Each does nothing unless the environment names it.

`GATEWAY_KILL_POINT=after-claim` ends the process with SIGKILL at that moment; with `GATEWAY_KILL_FILE` it writes the name to that file and
stands still instead, until somebody kills it from outside.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

NAMES = (
    "before-commit",
    "after-commit",
    "after-claim",
    "after-send",
    "after-answer",
    "during-ack",
    "during-migration",
    "during-shutdown",
)
"""The eight moments of FAULT-P1, in its order."""


def point(name: str) -> None:
    """This is that moment."""
    if os.environ.get("GATEWAY_KILL_POINT") == name:
        _end(name)


def _end(name: str) -> None:
    where = os.environ.get("GATEWAY_KILL_FILE")
    if not where:
        os.kill(os.getpid(), signal.SIGKILL)
        return
    Path(where).write_text(name)
    while True:
        time.sleep(1)
