"""Forms without JavaScript: read within limits, guarded, and sent once however often the button is pressed."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Protocol
from urllib.parse import parse_qsl
from weakref import WeakValueDictionary

from starlette.requests import ClientDisconnect, Request

from gateway.errors import BadRequest, TooLarge, Unavailable, UnsupportedMedia

CAP = 64 * 1024
DEADLINE = 10.0
_PAUSE = 0.05
_KEY = re.compile(r"[0-9a-f]{32}")


async def form_body(request: Request, *, cap: int = CAP) -> bytes:
    """The bytes of a posted form. Raises UnsupportedMedia, TooLarge or BadRequest."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise UnsupportedMedia(reason="form-media-type")
    body = bytearray()
    try:
        async with asyncio.timeout(DEADLINE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > cap:
                    raise TooLarge(reason="form-too-large")
    except (TimeoutError, ClientDisconnect) as error:
        raise BadRequest(reason="form-unreadable") from error
    return bytes(body)


async def read_form(request: Request) -> Mapping[str, str]:
    """The fields; of a repeated one the last. Raises as `form_body`."""
    try:
        pairs = parse_qsl((await form_body(request)).decode(), keep_blank_values=True, max_num_fields=100)
    except ValueError as error:
        raise BadRequest(reason="form-unreadable") from error
    return {name: value.replace("\r\n", "\n").strip() for name, value in pairs}


def new_key() -> str:
    """The key of one form: what it makes is named after it, so that sending it twice makes one thing."""
    return uuid.uuid4().hex


def key_of(form: Mapping[str, str]) -> str:
    """Raises BadRequest for a form that is not ours."""
    key = form.get("key", "")
    if not _KEY.fullmatch(key):
        raise BadRequest(reason="form-key")
    return key


def record_token(csrf: str, patient: str) -> str:
    """Says for which record a form was made, so that a switch in another tab cannot send it to the wrong person's."""
    return hmac.new(csrf.encode(), patient.encode(), hashlib.sha256).hexdigest()[:32]


class Claims(Protocol):
    """Who has the turn, among all processes."""

    async def take(self, key: str, holder: str) -> bool:
        """False while somebody else has it."""
        ...

    async def leave(self, key: str, holder: str) -> None:
        """Let the next one go."""
        ...


class Turns:
    """Two sends of one form at the same time go one after the other; the second finds what the first made.

    `claims` does the same among processes. A turn that does not come within `patience` seconds is taken anyway: each write looks first.
    """

    def __init__(self, claims: Claims | None = None, *, patience: float = 15.0) -> None:
        self._claims, self._patience = claims, patience
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncGenerator[None]:
        """Wait for one's turn. Raises Unavailable when the store cannot say whose it is."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        async with lock, self._claimed(hashlib.sha256(key.encode()).hexdigest()):
            yield

    @asynccontextmanager
    async def _claimed(self, key: str) -> AsyncGenerator[None]:
        if self._claims is None:
            yield
            return
        holder = uuid.uuid4().hex
        deadline = time.monotonic() + self._patience
        while not await self._claims.take(key, holder) and time.monotonic() < deadline:  # noqa: ASYNC110  # who has it may be another process
            await asyncio.sleep(_PAUSE)
        try:
            yield
        finally:
            with suppress(Unavailable):  # it ends by itself; what was done is done
                await self._claims.leave(key, holder)
