"""SQLite asked in the caller's own thread, for a few rows by key: what every request needs to know about its token.

A trip to the thread of a pooled connection costs 600 µs of CPU with the bridge between the two, the same rows here 20 µs. Readers of a WAL never
wait for writers, and pages that are asked for at every request are in memory; whatever does not go smoothly (a lock while another process
recovers the log, a disk that fails) is left to the pooled connections, which may wait.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from sqlalchemy import Select, make_url
from sqlalchemy.dialects import sqlite

Values = Sequence[Mapping[str, Any]]
"""Rows by the names of their columns."""
Statement = Select[*tuple[Any, ...]]

_DIALECT = sqlite.dialect(paramstyle="qmark")
_KEPT = 2048
"""Results that are remembered, a few kB each."""


class Failed(Exception):
    """Not now, or not here: ask in the patient way."""


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A statement as SQLite takes it, and what turns its columns into values."""

    sql: str
    names: tuple[str, ...]
    constants: Mapping[str, Any]
    columns: tuple[tuple[str, Callable[[Any], Any] | None], ...]

    @classmethod
    def of(cls, statement: Statement) -> _Compiled:
        compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
        columns = [(column.name, column.type.dialect_impl(_DIALECT).result_processor(_DIALECT, None)) for column in statement.selected_columns]
        return cls(str(compiled), tuple(compiled.positiontup or ()), dict(compiled.params), tuple(columns))

    def values(self, raw: Sequence[tuple[Any, ...]]) -> Values:
        return [{name: value if process is None else process(value) for (name, process), value in zip(self.columns, row, strict=True)} for row in raw]


class Here:
    """One connection that only reads, without waiting. Opened at the first use, in the thread of the loop, and used in no other."""

    def __init__(self, url: str) -> None:
        self._path = make_url(url).database or ""
        self._connection: sqlite3.Connection | None = None
        self._compiled: dict[Statement, _Compiled] = {}
        self._kept: OrderedDict[tuple[Any, ...], tuple[Sequence[tuple[Any, ...]], Any]] = OrderedDict()

    def derive(self, statement: Statement, parameters: Mapping[str, str], make: Callable[[Values], Any]) -> Any:
        """`make` of the rows, as of the newest commit of any process. What it gave is given again while the rows are the same. Raises Failed."""
        compiled = self._compiled.get(statement)
        if compiled is None:
            compiled = self._compiled[statement] = _Compiled.of(statement)
        given = {**compiled.constants, **parameters}
        raw = self._run(compiled.sql, [given[name] for name in compiled.names])
        key = (statement, make, *parameters.values())
        kept = self._kept.get(key)
        if kept is not None and kept[0] == raw:
            self._kept.move_to_end(key)
            return kept[1]
        made = make(compiled.values(raw))
        if raw:  # a stream of made-up tokens pushes nothing out
            self._kept[key] = (raw, made)
            self._kept.move_to_end(key)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return made

    def _run(self, sql: str, parameters: Sequence[Any]) -> Sequence[tuple[Any, ...]]:
        try:
            if self._connection is None:
                self._connection = _opened(self._path)
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            self.close()
            raise Failed from error

    def close(self) -> None:
        """Give the connection up; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _opened(path: str) -> sqlite3.Connection:
    # Without an isolation level every statement is a transaction of its own, and sees what was committed before it began.
    connection = sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=0, isolation_level=None)  # a file that is missing stays so
    connection.execute("PRAGMA query_only=ON")
    return connection
