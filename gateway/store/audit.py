"""The audit log: a read's record goes to a segment of this process before its answer leaves, and into the store within a second.

A state change's record is committed with the change (`record_in`) or before its answer (`commit`). Records of a process that was killed are
loaded by any living one, or by the next to start. A record is loaded exactly once, because its id is the primary key.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog
from sqlalchemy import JSON, Boolean, Column, ForeignKey, Index, Integer, RowMapping, Select, String, Table, Text, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.audit import AuditRecord
from gateway.errors import Unavailable
from gateway.store.base import Database, UtcDateTime, metadata
from gateway.store.segment import Segment, leftovers

log = structlog.get_logger("gateway.audit")

SYNC = 0.1
"""Seconds between two fdatasyncs of the segment at most."""
LOAD = 0.5
"""Seconds between two loads: with the time that a load takes, a record is in the store within one second."""
_ROTATE = 2**20
"""Bytes after which a segment that was loaded whole is removed and another one begun."""

_AT_ONCE = 500
"""Rows in one statement of SQLite, which takes 32,766 values (SQLITE_MAX_VARIABLE_NUMBER)."""
_INTEGER = 2**31 - 1

# All text without a limit: a record that does not fit a column would be a record lost.
table = Table(
    "audit",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("recorded", UtcDateTime, nullable=False, index=True),
    Column("request_id", Text, nullable=False, index=True),
    Column("ehr", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("client_name", Text, nullable=False),
    Column("fhir_user", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("patients", JSON, nullable=False),
    Column("type", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("query", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("resources", Integer, nullable=False),
    Column("cached", Boolean, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("detail", Text, nullable=False),
)

# Who looked at this patient's data: one row for each patient that a record names.
patient_table = Table(
    "audit_patient",
    metadata,
    Column("record_id", String(32), ForeignKey("audit.id", ondelete="CASCADE"), primary_key=True),
    Column("patient", Text, primary_key=True),
    Column("ehr", Text, nullable=False),
    Column("recorded", UtcDateTime, nullable=False),
)
Index("ix_audit_patient_history", patient_table.c.ehr, patient_table.c.patient, patient_table.c.recorded)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AuditRecord).decode
_NAMES = tuple(item.name for item in fields(AuditRecord))


class AuditLog:
    """An `AuditSink` over a directory of segments and the store. `directory` belongs to one store; processes share it.

    Call `append` from one event loop or from threads; the rest from the loop. `run` must be running for records to reach disk and store.
    """

    def __init__(self, database: Database, directory: Path) -> None:
        self._database, self._directory = database, directory
        self._segment: Segment | None = None
        self._retired: list[Segment] = []
        self._begun = False
        self._appending = threading.Lock()
        self._loading = asyncio.Lock()
        self._syncing = asyncio.Lock()  # nobody closes a descriptor that a thread is syncing
        self._quiet = frozenset[str]()

    # Writing ----------------------------------------------------------------------------------------------------------

    def append(self, record: AuditRecord) -> None:
        """Put a read's record where it survives SIGKILL: one write(2). Raises Unavailable when it cannot; then nothing may be answered."""
        line = _line(record)
        try:
            with self._appending:
                self._writable().append(line)
        except OSError as error:
            self._say("append", error)
            raise Unavailable(reason="audit-down", retry_after=2) from error
        self._fine("append")

    async def commit(self, record: AuditRecord) -> None:
        """Put a state change's record into the store, durably. Raises Unavailable when it cannot."""
        async with self._database.write() as connection:
            await self.record_in(connection, record)

    async def record_in(self, connection: AsyncConnection, record: AuditRecord) -> None:
        """Put a state change's record into the caller's transaction: both happen, or neither."""
        await _insert(connection, [record])

    def _writable(self) -> Segment:
        """This process's segment, a new one when the last was removed or its disk failed."""
        if self._segment is None or not self._segment.usable:
            self._retire()
            if not self._begun:  # never again: a directory that vanished may be a volume that is no longer mounted
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._segment = Segment.create(self._directory)
            self._begun = True
        return self._segment

    def _retire(self) -> None:
        if self._segment is not None:
            self._retired.append(self._segment)  # what it holds is still loaded from its open descriptor
            self._segment = None

    # In the background ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Sync and load until cancelled. A disk or store that fails is said once and tried again."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sync_often())
            group.create_task(self._load_often())

    async def _sync_often(self) -> None:
        while True:
            await asyncio.sleep(SYNC)
            try:
                await self.sync()
                self._fine("sync")
            except OSError as error:
                self._say("sync", error)

    async def _load_often(self) -> None:
        while True:
            try:
                await self.load()
                self._fine("load")
            except (Unavailable, SQLAlchemyError, OSError) as error:
                self._say("load", error)
            await asyncio.sleep(LOAD)

    async def sync(self) -> None:
        """Let what was appended survive power loss. Raises OSError."""
        async with self._syncing:
            if segment := self._segment:
                await asyncio.to_thread(segment.sync)

    async def load(self) -> None:
        """Put everything that was appended here, and by processes that live no more, into the store. Raises Unavailable."""
        async with self._loading:
            await self._load_own()
            with closing(leftovers(self._directory, but=self._own_paths())) as found:
                for segment in found:
                    await self._drain(segment)
                    segment.discard()

    async def _load_own(self) -> None:
        for segment in (*self._retired, *([self._segment] if self._segment else [])):
            await self._drain(segment)
        async with self._syncing:
            with self._appending:
                if self._segment and self._segment.offset >= _ROTATE and not self._segment.unread:
                    self._retire()
            done = [segment for segment in self._retired if not segment.unread]
            for segment in done:
                self._retired.remove(segment)
                segment.discard()
                segment.close()

    async def _drain(self, segment: Segment) -> None:
        while True:
            lines, end = segment.lines()
            if end == segment.offset:
                return
            records, damaged = _records(lines)
            damaged += await self._store(records)
            if damaged:
                log.error("audit-lines-damaged", segment=segment.path.name, lines=damaged)
            segment.damaged += damaged
            segment.offset = end

    async def _store(self, records: Sequence[AuditRecord]) -> int:
        """Commit them. Gives how many the database refuses for what they hold (none, unless a disk changed them)."""
        try:
            async with self._database.write() as connection:
                await _insert(connection, records)
        except ProgrammingError:  # PostgreSQL without our tables: nothing is wrong with the records
            raise
        except DBAPIError:
            if len(records) == 1:
                return 1
            return sum([await self._store([record]) for record in records])
        return 0

    def _own_paths(self) -> frozenset[Path]:
        return frozenset(segment.path for segment in (*self._retired, self._segment) if segment)

    def _say(self, what: str, error: Exception) -> None:
        if what not in self._quiet:
            log.error("audit-down", what=what, error=type(error).__name__, errno=getattr(error, "errno", None))
        self._quiet |= {what}

    def _fine(self, what: str) -> None:
        if what in self._quiet:
            log.info("audit-up", what=what)
            self._quiet -= {what}

    async def close(self) -> None:
        """Load what is there, when the store answers, and give the segment up; else the next process finds it. End `run` before."""
        try:
            await self.load()
        except (Unavailable, SQLAlchemyError, OSError) as error:
            self._say("load", error)
        async with self._syncing:
            with self._appending:
                self._retire()
            while self._retired:
                self._give_up(self._retired.pop())

    def _give_up(self, segment: Segment) -> None:
        try:
            segment.sync()
            if not segment.unread:
                segment.discard()
        except OSError as error:
            self._say("sync", error)
        finally:
            segment.close()

    # Reading -------------------------------------------------------------------------------------------------------------

    async def of_patient(self, ehr: str, patient: str, *, limit: int = 50, before: datetime | None = None) -> list[AuditRecord]:
        """Who did what to this patient's data, the newest first, up to now. The next page is `before` the last one's `recorded`.

        A page may be longer than `limit`: it ends between two moments, so that none of several records of one moment is left out.
        """
        await self.load()
        side = patient_table.c
        query = select(table).join(patient_table, side.record_id == table.c.id).where(side.ehr == ehr, side.patient == patient)
        page = query.order_by(side.recorded.desc(), side.record_id.desc()).limit(limit)
        async with self._database.read() as connection:
            found = await _select(connection, page.where(side.recorded < before) if before else page)
            if len(found) == limit:
                last = found[-1].recorded
                same = await _select(connection, query.where(side.recorded == last).order_by(side.record_id.desc()))
                found = [*(record for record in found if record.recorded > last), *same]
        return found

    async def search(
        self,
        *,
        ehr: str = "",
        patient: str = "",
        client_id: str = "",
        user_id: str = "",
        action: str = "",
        outcome: str = "",
        request_id: str = "",
        message_id: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
    ) -> list[AuditRecord]:
        """Records that agree with everything given, the newest first, recorded from `since` to before `until`."""
        await self.load()
        given = {"ehr": ehr, "client_id": client_id, "user_id": user_id, "action": action, "outcome": outcome}
        given |= {"request_id": request_id, "message_id": message_id}
        query = select(table).where(*(table.c[name] == value for name, value in given.items() if value))
        if patient:
            query = query.where(table.c.id.in_(select(patient_table.c.record_id).where(patient_table.c.patient == patient)))
        if since:
            query = query.where(table.c.recorded >= since)
        if until:
            query = query.where(table.c.recorded < until)
        async with self._database.read() as connection:
            return await _select(connection, query.order_by(table.c.recorded.desc(), table.c.id.desc()).limit(limit))


def _line(record: AuditRecord) -> bytes:
    """One line of JSON. Line breaks within values are escaped, so a newline ends a record and nothing else does."""
    if record.recorded.tzinfo is None:
        raise ValueError("a record without a zone")
    try:
        return _encode(record) + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 cannot hold
        return _encode(_encodable(record)) + b"\n"


def _encodable(record: AuditRecord) -> AuditRecord:
    def plain(value: Any) -> Any:
        return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value

    changed = {name: plain(getattr(record, name)) for name in _NAMES}
    return replace(record, **{**changed, "patients": tuple(map(plain, record.patients))})


def _records(lines: Sequence[bytes]) -> tuple[list[AuditRecord], int]:
    """What the lines hold, and how many of them hold nothing that is a record."""
    found: list[AuditRecord] = []
    for line in lines:
        try:
            record = _decode(line)
        except ValueError:  # msgspec's DecodeError and ValidationError
            continue
        if record.recorded.tzinfo:
            found.append(record)
    return found, len(lines) - len(found)


async def _insert(connection: AsyncConnection, records: Sequence[AuditRecord]) -> None:
    """Add them; one that is there already is left as it is."""
    if not records:
        return
    side = [
        {"record_id": record.id, "patient": _storable(patient), "ehr": _storable(record.ehr), "recorded": record.recorded}
        for record in records
        for patient in dict.fromkeys(record.patients)
    ]
    for target, rows in ((table, [_row(record) for record in records]), (patient_table, side)):
        if rows:
            await (_add_sqlite if connection.dialect.name == "sqlite" else _add_postgresql)(connection, target, rows)


async def _add_postgresql(connection: AsyncConnection, target: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    await connection.execute(postgresql.insert(target).on_conflict_do_nothing(), rows)


async def _add_sqlite(connection: AsyncConnection, target: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Many rows in one statement: a statement for each would take the interpreter from the requests, and give it back, at every row."""
    columns = [(column.name, column.type.dialect_impl(connection.dialect).bind_processor(connection.dialect)) for column in target.c]
    places = f"({','.join('?' * len(columns))})"
    head = f"INSERT INTO {target.name} ({','.join(name for name, _ in columns)}) VALUES "  # noqa: S608 (names of our own tables)
    for at in range(0, len(rows), _AT_ONCE):
        some = rows[at : at + _AT_ONCE]
        values = tuple(process(row[name]) if process else row[name] for row in some for name, process in columns)
        await connection.exec_driver_sql(f"{head}{','.join([places] * len(some))} ON CONFLICT DO NOTHING", values)


def _row(record: AuditRecord) -> Mapping[str, Any]:
    row = {name: _storable(getattr(record, name)) for name in _NAMES}  # asdict copies deeply: four times the cost
    return {**row, "patients": [_storable(patient) for patient in record.patients]}


def _storable(value: Any) -> Any:
    """PostgreSQL's text holds no NUL, its integers 32 bits. A record that does not fit would be a record lost."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return min(value, _INTEGER) if isinstance(value, int) else value


async def _select(connection: AsyncConnection, query: Select[Any]) -> list[AuditRecord]:
    return [_record(row) for row in (await connection.execute(query)).mappings()]


def _record(row: RowMapping) -> AuditRecord:
    values: dict[str, Any] = {**row, "patients": tuple(row["patients"])}
    return AuditRecord(**values)
