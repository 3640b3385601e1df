"""The database's schema: made at the first start, checked at each, changed by `gateway store upgrade` only.

Everything happens in one transaction under a lock (BEGIN IMMEDIATE on SQLite, an advisory lock on PostgreSQL), so that processes that start at
once find either nothing or all of it, and a process killed in between leaves nothing (FAULT-P1 "during migration").
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection, MetaData, inspect, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

import gateway.store
from gateway.errors import ConfigError, Unavailable
from gateway.store.base import Database, UtcDateTime, metadata

if TYPE_CHECKING:
    from alembic.config import Config

SCRIPTS = Path(__file__).parent / "migrations"
"""Alembic's script folder, part of the package."""
_LOCK = 0x67617465776179  # "gateway": the key of PostgreSQL's advisory lock
_PATIENCE = 60.0
"""Seconds to wait for another process that is making or changing the schema."""


class State(StrEnum):
    """What stands in the database, against what this version of the gateway needs."""

    EMPTY = "empty"
    CURRENT = "current"
    BEHIND = "behind"
    AHEAD = "ahead"  # made by a newer gateway
    FOREIGN = "foreign"  # tables, but not from our migrations


async def prepare(database: Database) -> None:
    """Make the schema in an empty store; refuse one that does not fit (FAULT-D5). Raises ConfigError with the fix, Unavailable when it is down."""
    try:
        if await state(database) is State.CURRENT:
            return
    except Unavailable as error:
        if not _is_locked(error):  # SQLite, while another process makes it
            raise
    async with _locked(database) as connection:
        await connection.run_sync(_prepare)


async def upgrade(database: Database) -> None:
    """Bring the schema to this version. Raises ConfigError when the store is not ours or newer, Unavailable when it is down."""
    async with _locked(database) as connection:
        await connection.run_sync(_upgrade)


async def state(database: Database) -> State:
    """How the store's schema fits, without changing or locking anything."""
    async with database.read() as connection:
        return await connection.run_sync(_state)


def tables() -> MetaData:
    """All tables of all modules of the store."""
    for module in pkgutil.iter_modules(gateway.store.__path__, "gateway.store."):
        if not module.ispkg:
            importlib.import_module(module.name)
    return metadata


def revisions() -> list[str]:
    """Of our migrations, oldest first. Each file is named after its own, so that a start need not load them all."""
    return sorted(path.name.partition("_")[0] for path in (SCRIPTS / "versions").glob("[0-9]*_*.py"))


def config(connection: Connection) -> Config:
    """Alembic's configuration for commands on this connection, with the scripts that are part of the package."""
    from alembic.config import Config  # noqa: PLC0415  # Alembic is dear, and needed where a schema is made or changed only

    made = Config()
    made.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    made.attributes["connection"] = connection
    return made


def render_item(type_: str, item: Any, context: Any) -> str | Literal[False]:
    """Migrations name SQLAlchemy's types only: ours may change, a migration may not."""
    del context
    return "sa.DateTime(timezone=True)" if type_ == "type" and isinstance(item, UtcDateTime) else False


def _state(connection: Connection) -> State:
    known, found = revisions(), _stands_at(connection)
    if found == known[-1:]:
        return State.CURRENT
    if not found:
        return State.FOREIGN if set(inspect(connection).get_table_names()) & set(tables().tables) else State.EMPTY
    return State.BEHIND if set(found) <= set(known) else State.AHEAD


def _stands_at(connection: Connection) -> list[str]:
    """What Alembic noted in the database."""
    if not inspect(connection).has_table("alembic_version"):
        return []
    return list(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())


def _prepare(connection: Connection) -> None:
    match _state(connection):
        case State.CURRENT:  # another process was first
            return
        case State.EMPTY:
            _to_newest(connection)
        case State.BEHIND:
            raise ConfigError("The store was made by an older version of the gateway.", where="store", fix="gateway store upgrade")
        case State.AHEAD | State.FOREIGN as other:
            raise _unusable(other)


def _upgrade(connection: Connection) -> None:
    match _state(connection):
        case State.CURRENT | State.EMPTY | State.BEHIND:
            _to_newest(connection)
        case State.AHEAD | State.FOREIGN as other:
            raise _unusable(other)


def _to_newest(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415  # as above

    command.upgrade(config(connection), "head")


def _unusable(found: State) -> ConfigError:
    if found is State.AHEAD:
        return ConfigError("The store was made by a newer version of the gateway.", where="store", fix="install that version")
    return ConfigError("The store holds tables that the gateway did not make.", where="store", fix="name an empty database")


@asynccontextmanager
async def _locked(database: Database) -> AsyncGenerator[AsyncConnection]:
    """A transaction that no other process's schema change runs beside. Committed when the block is left."""
    deadline = time.monotonic() + _PATIENCE
    async with AsyncExitStack() as stack:
        while (connection := await _try_lock(stack, database)) is None:
            if time.monotonic() > deadline:
                raise Unavailable("Another process is changing the store's schema.", reason="store-down", retry_after=10)
            await asyncio.sleep(0.1)
        yield connection


async def _try_lock(stack: AsyncExitStack, database: Database) -> AsyncConnection | None:
    """The locked transaction, or None when somebody else has it."""
    if database.is_sqlite:
        try:
            return await stack.enter_async_context(database.write())
        except Unavailable as error:
            if _is_locked(error):
                return None
            raise
    connection = await stack.enter_async_context(database.write())
    if (await connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK})).scalar_one():
        return connection
    await stack.aclose()
    return None


def _is_locked(error: Unavailable) -> bool:
    return isinstance(error.__cause__, OperationalError) and "locked" in str(error.__cause__.orig)
