"""What the command line asks of the inbox. Plain values; no bodies but by `show`, which opens the seal."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import Forbidden
from gateway.ingest import trail
from gateway.ingest.stored import StoredAnswer, StoredRequest, Vault, refusal
from gateway.seal import Seals
from gateway.store import inbox, inbox_admin
from gateway.store.base import Database, now
from gateway.store.inbox_rows import Accounting, Entry, Message


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of `gateway inbox list`."""

    id: str
    source: str
    state: str
    attempts: int
    received_at: str
    error: str


@dataclass(frozen=True, slots=True)
class Shown:
    """Everything about one message. `request` and `answer` hold clinical data."""

    message: Message
    entries: tuple[Entry, ...]
    request: StoredRequest
    answer: StoredAnswer | None


async def listed(database: Database, *, state: str = "", source: str = "", limit: int = 100) -> list[Listed]:
    """The newest messages first. `state` as in the table, or "pending"; `source` is a client id."""
    async with database.read() as connection:
        found = await inbox_admin.listing(connection, state=state, client_id=source, limit=limit)
    return [Listed(one.id, one.client_id, one.state, one.attempts, one.received_at.isoformat(timespec="milliseconds"), one.error) for one in found]


async def shown(database: Database, sealer: Seals, id_: str) -> Shown | None:
    """One message with its bytes, or None. Raises SealBroken."""
    vault = Vault(sealer)
    async with database.read() as connection:
        message = await inbox.get(connection, id_)
        if message is None:
            return None
        entries = await inbox_admin.entries(connection, message.seq)
        request, answer = await inbox_admin.request(connection, message.seq), await inbox.answer(connection, message.seq)
    return Shown(message, entries, vault.request(id_, request), vault.answer(id_, answer) if answer else None)


async def retry(database: Database, audit: trail.AuditTrail, id_: str) -> bool:
    """A second chance for a dead message. False when it is not dead."""
    async with database.write() as connection:
        done = await inbox_admin.retry(connection, id_, now())
        message = await inbox.get(connection, id_) if done else None
        if message is not None:
            await audit.record_in(connection, trail.moved(message, "retried", status=202))
    return done


async def drop(database: Database, audit: trail.AuditTrail, sealer: Seals, id_: str) -> bool:
    """Give a message up: it counts as rejected, what waited behind it goes on. False when it is on its way, or through."""
    async with database.write() as connection:
        message = await inbox.get(connection, id_)
        if message is None:
            return False
        answer = refusal(Forbidden("The operator has dropped this message.", reason="dropped", code="suppressed"), message.request_id)
        done = await inbox_admin.drop(connection, id_, now(), Vault(sealer).close(id_, answer))
        if done:
            await audit.record_in(connection, trail.moved(message, "dropped", status=answer.status, reason="dropped"))
    return done


async def accounting(database: Database) -> Accounting:
    """Acknowledged = done + rejected + dead + held + pending."""
    async with database.read() as connection:
        return await inbox_admin.accounting(connection)
