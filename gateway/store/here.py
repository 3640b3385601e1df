"""SQLite asked in the caller's own thread, for a few rows by key: what every request needs to know about its token.

A trip to the thread of a pooled connection costs 600 µs of CPU with SQLAlchemy's bridge between the two, the same statement here 60 µs. Readers
of a WAL never wait for writers, and pages that are asked for at every request are in memory; whatever does not go smoothly (a lock while
another process recovers the log, a disk that fails) is left to the pooled connections, which may wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool


class Here:
    """One connection that only reads, without waiting. Opened at the first use, in the thread of the loop, and used in no other."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._connection: Connection | None = None

    def rows(self, statement: Select[*tuple[Any, ...]], parameters: Mapping[str, Any]) -> Sequence[Row[*tuple[Any, ...]]] | None:
        """The rows, as of the newest commit of any process; None: ask in the patient way."""
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            return self._connection.execute(statement, dict(parameters)).all()
        except DBAPIError:
            self.close()
            return None

    def close(self) -> None:
        """Give the connection up; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(DBAPIError):
                connection.close()


def _engine(url: str) -> Engine:
    # AUTOCOMMIT: every statement is a transaction of its own, so that each sees what was committed before it began.
    engine = create_engine(make_url(url).set(drivername="sqlite"), connect_args={"timeout": 0}, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    event.listen(engine, "connect", _only_read)
    return engine


def _only_read(connection: Any, record: Any) -> None:
    del record
    connection.execute("PRAGMA query_only=ON").close()
