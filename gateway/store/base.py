"""The database: one engine, reads and writes as two kinds of transaction. SQLite by default, PostgreSQL for more than one node.

Tables live beside the code that uses them (`oauth_tables`, `people_tables`, `inbox_tables`, `audit`, `invalidation`), all on `metadata`; Alembic
makes them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
from sqlalchemy import DateTime, MetaData, event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.types import TypeDecorator

from gateway.errors import Unavailable
from gateway.store import one_hop
from gateway.store.here import Failed, Here, Statement, Values

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


T = TypeVar("T")


class Derive(Protocol):
    """How what every request asks for is read: `Database.derive`."""

    async def __call__(self, statement: Statement, parameters: Mapping[str, str], make: Callable[[Values], T]) -> T:
        """`make` of the statement's rows. Both are made once, at import: a value is recognised by them."""
        ...


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in, aware UTC datetimes out, on SQLite too (which keeps no zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Refuse naive values; store UTC."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without a zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Give the zone back where the database lost it."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Clock = Callable[[], datetime]
"""Tells the moment: `now`, or what a test says."""


def now() -> datetime:
    """This moment, aware, UTC."""
    return datetime.now(UTC)


BUSY = 5.0
"""Seconds to wait for another writer, for a connection, or for the database to answer, before a request is told to come back (FAULT-D1)."""
_SLOW = 15.0
"""Seconds for one statement on PostgreSQL: one that was stopped or cut off without a word must not hold requests for ever (FAULT-D3)."""


class Database:
    """`url` is an SQLAlchemy URL: `sqlite+aiosqlite:///path` or `postgresql+asyncpg://...`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        if self.is_sqlite and ":memory:" in url:
            raise ValueError("an in-memory SQLite has one connection only; use a file")
        driver = {"timeout": BUSY} if self.is_sqlite else {"timeout": BUSY, "command_timeout": _SLOW}
        self.engine = create_async_engine(
            url,
            connect_args=driver,
            module=one_hop.driver if self.is_sqlite else None,
            pool_pre_ping=not self.is_sqlite,
            # A connection of SQLite is a thread and an open file: 20 that stay, since what overflows is opened and closed for one statement.
            pool_size=20 if self.is_sqlite else 10,
            max_overflow=0 if self.is_sqlite else 10,
            pool_timeout=BUSY,
        )
        # SQLite has one writer at a time: waiting here costs less than its busy loop, and is in order.
        self._writer = asyncio.Lock()
        self._here = Here(url) if self.is_sqlite else None
        if self.is_sqlite:
            _prepare_sqlite(self)

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """A connection for reads. Each statement sees what was committed before it began. Raises Unavailable (503) when there is none."""
        with _unavailable():
            async with self.engine.connect() as connection:
                yield connection

    async def derive(self, statement: Statement, parameters: Mapping[str, str], make: Callable[[Values], T]) -> T:
        """`make` of a few rows by key, as of the newest commit: for what is asked at every request. Raises Unavailable (503) as `read` does.

        `make` is pure: on SQLite its result is given again while the rows are the same as last time.
        """
        if self._here is not None:
            with suppress(Failed):
                return self._here.derive(statement, parameters, make)
        async with self.read() as connection:
            return make([dict(row) for row in (await connection.execute(statement, dict(parameters))).mappings()])

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[AsyncConnection]:
        """A transaction that is durable once the block is left. Raises Unavailable (503) when it cannot be.

        Unavailable at the end of the block may mean that it was committed and the confirmation lost (FAULT-D4): whoever tries again must be
        able to find out, by an id of its own.
        """
        with _unavailable():
            if self.is_sqlite:
                async with self._one_writer() as connection:
                    yield connection
            else:
                async with self.engine.begin() as connection:
                    yield connection

    @asynccontextmanager
    async def _one_writer(self) -> AsyncGenerator[AsyncConnection]:
        began = time.monotonic()
        async with asyncio.timeout(BUSY):
            await self._writer.acquire()
        try:
            async with self.engine.connect() as connection:
                await _begin(connection, left=BUSY - (time.monotonic() - began))
                try:
                    yield connection
                except BaseException:
                    await connection.rollback()
                    raise
                await connection.commit()
        finally:
            self._writer.release()

    async def close(self) -> None:
        """Give the connections back."""
        if self._here is not None:
            self._here.close()
        await self.engine.dispose()


async def _begin(connection: AsyncConnection, *, left: float) -> None:
    """BEGIN IMMEDIATE: a deferred transaction that turns into a write later fails at once when another process writes."""
    if short := left < 0.9 * BUSY:  # it queued already: together not longer than BUSY
        await connection.exec_driver_sql(f"PRAGMA busy_timeout={max(0, int(left * 1000))}")
    try:
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        if short:
            await connection.exec_driver_sql(f"PRAGMA busy_timeout={int(BUSY * 1000)}")


@contextmanager
def _unavailable() -> Generator[None]:
    """What the drivers raise when the database is down, locked, full, or says nothing. Anything else is a mistake of ours and stays one."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout, OSError, TimeoutError) as error:
        raise Unavailable(reason="store-down", retry_after=2) from error
    except DBAPIError as error:
        if error.connection_invalidated or _is_down(error.orig):
            raise Unavailable(reason="store-down", retry_after=2) from error
        raise
    except asyncpg.PostgresError as error:  # while connecting, where SQLAlchemy translates nothing
        if _is_down(error):
            raise Unavailable(reason="store-down", retry_after=2) from error
        raise


def _is_down(error: object) -> bool:
    """PostgreSQL's classes of errors that pass: connection (08), resources (53), operator intervention (57), system (58); read-only standby.

    And rollback (40): of two transactions that wait for each other it ends one, of which nothing is done.
    """
    code = str(getattr(error, "sqlstate", None) or "")
    return code[:2] in {"08", "40", "53", "57", "58"} or code == "25006"


def _prepare_sqlite(database: Database) -> None:
    @event.listens_for(database.engine.sync_engine, "connect")
    def pragmas(connection: Any, record: Any) -> None:
        del record
        # The driver must not begin transactions by itself: `write` says BEGIN IMMEDIATE.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={int(BUSY * 1000)}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged row survives power loss (promise 3)
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()
