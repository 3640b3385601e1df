"""Messages that stay on this machine: onto the console for a demo, into a file for tests and for programs that send them on."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from gateway.errors import NotSent

_KINDS = ("email", "phone")


class Console:
    """Onto standard error, for whoever sits there. For a demo alone: a code that stands in a log is known to all who read logs."""

    kinds: Collection[str] = _KINDS

    async def send(self, to: str, subject: str, text: str) -> None:
        """Between two lines, so that it is found among others."""
        line = "-" * 60
        print(f"{line}\nTo: {to}\nSubject: {subject}\n\n{text.rstrip()}\n{line}", file=sys.stderr, flush=True)  # noqa: T201  # that is what it does


class File:
    """One JSON object a line: at, to, subject, text. The file is this user's alone."""

    kinds: Collection[str] = _KINDS

    def __init__(self, path: Path) -> None:
        self._path = path

    async def send(self, to: str, subject: str, text: str) -> None:
        """One write, at the end."""
        message = {"at": datetime.now(UTC).isoformat(), "to": to, "subject": subject, "text": text}
        await asyncio.to_thread(self._append, json.dumps(message, ensure_ascii=False).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise NotSent(f"the file cannot be written ({error.strerror})") from error
