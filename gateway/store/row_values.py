"""Rows as frozen values and back, and changes whose row count is the answer. For the tables of `oauth_tables` and `people_tables`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cache
from typing import Any, TypeVar, cast

from sqlalchemy import Table, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")


def _mapping(row: Any) -> Mapping[str, Any]:
    return row._mapping  # noqa: SLF001  # SQLAlchemy's documented accessor


def as_value(cls: type[T], row: Any) -> T | None:
    """A row as its dataclass; JSON lists become tuples."""
    return None if row is None else made(cls, _mapping(row), "")


def made(cls: type[T], mapping: Mapping[str, Any], prefix: str) -> T:
    """The dataclass from the columns whose names begin with `prefix`; JSON lists become tuples."""
    found: dict[str, Any] = {}
    for name in _names(cls):
        raw = mapping[prefix + name]
        found[name] = tuple(cast("list[Any]", raw)) if isinstance(raw, list) else raw
    return cls(**found)


@cache
def _names(cls: Any) -> tuple[str, ...]:
    return tuple(item.name for item in fields(cls))


async def one_row(connection: AsyncConnection, cls: type[T], table: Table, key: str, column: str = "hash") -> T | None:
    """The row whose `column` has this value, or None."""
    row = (await connection.execute(select(table).where(table.c[column] == key))).first()
    return as_value(cls, row)


async def changed(connection: AsyncConnection, statement: Any) -> bool:
    """Whether the statement changed one row: this caller was the one."""
    result = cast("CursorResult[Any]", await connection.execute(statement))
    return result.rowcount == 1


async def add_once(connection: AsyncConnection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert unless the key is there. True when this caller inserted."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return await changed(connection, make(table).values(**values).on_conflict_do_nothing())


def as_row(value: Any) -> dict[str, Any]:
    """The columns of a dataclass; tuples become JSON lists."""
    found = asdict(value)
    return {key: list(cast("tuple[Any, ...]", item)) if isinstance(item, tuple) else item for key, item in found.items()}
