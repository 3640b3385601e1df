"""Reads and writes of who may sign in, whose record each may see, and who has: accounts, sessions, attempts.

As in `store.oauth`, a change that may happen once only says whether this caller was the one, and none of these functions commits.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import bindparam, case, delete, insert, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store import oauth_tables
from gateway.store import people_tables as t
from gateway.store.base import UtcDateTime
from gateway.store.oauth_rows import Account, ListedPatient, WebSession
from gateway.store.row_values import add_once, as_row, as_value, changed, one_row

# Accounts --------------------------------------------------------------------------------------------------------------


async def account(connection: AsyncConnection, account_id: str) -> Account | None:
    """By id."""
    return await one_row(connection, Account, t.account, account_id, "id")


async def account_named(connection: AsyncConnection, username: str) -> Account | None:
    """By its normalised user name."""
    return await one_row(connection, Account, t.account, username, "username")


async def accounts(connection: AsyncConnection) -> tuple[Account, ...]:
    """All of them, by user name."""
    rows = await connection.execute(select(t.account).order_by(t.account.c.username))
    return tuple(found for row in rows if (found := as_value(Account, row)) is not None)


async def put_account(connection: AsyncConnection, value: Account, patients: tuple[ListedPatient, ...]) -> bool:
    """Add an account with its list. False when the user name is taken."""
    if not await add_once(connection, t.account, as_row(value)):
        return False
    await set_listed(connection, value.id, patients)
    return True


async def set_password(connection: AsyncConnection, account_id: str, password_hash: str) -> None:
    """Replace the password's hash."""
    await connection.execute(update(t.account).where(t.account.c.id == account_id).values(password_hash=password_hash))


async def hold_account(connection: AsyncConnection, value: Account) -> bool:
    """Whether it may be used and its password is the one that was judged; then nobody replaces it before this transaction ends."""
    same = select(t.account.c.id).where(
        t.account.c.id == value.id, t.account.c.password_hash == value.password_hash, t.account.c.disabled_at.is_(None)
    )
    return (await connection.execute(same.with_for_update(read=True))).first() is not None


async def account_held(connection: AsyncConnection, account_id: str) -> Account | None:
    """By id, as it is now; then nobody closes it, nor ends all of its access, before this transaction ends."""
    wanted = select(t.account).where(t.account.c.id == account_id).with_for_update(read=True)
    return as_value(Account, (await connection.execute(wanted)).first())


async def lock_account(connection: AsyncConnection, account_id: str) -> None:
    """Nobody who holds this account has anything under way, and whoever wants to hold it waits, until this transaction ends."""
    await connection.execute(select(t.account.c.id).where(t.account.c.id == account_id).with_for_update(key_share=True))


async def disable_account(connection: AsyncConnection, account_id: str, at: datetime) -> None:
    """From the next request on, this person and all tokens in her name are refused."""
    await connection.execute(update(t.account).where(t.account.c.id == account_id).values(disabled_at=at))


_LISTED = (
    select(t.account_patient.c.patient, t.account_patient.c.display)
    .where(t.account_patient.c.account_id == bindparam("account_id"))
    .order_by(t.account_patient.c.patient)
)


async def listed(connection: AsyncConnection, account_id: str) -> tuple[ListedPatient, ...]:
    """The patients that an account may see besides its own, by id."""
    rows = await connection.execute(_LISTED, {"account_id": account_id})
    return tuple(ListedPatient(row.patient, row.display) for row in rows)


async def set_listed(connection: AsyncConnection, account_id: str, patients: tuple[ListedPatient, ...]) -> None:
    """Replace the list."""
    table = t.account_patient
    await connection.execute(delete(table).where(table.c.account_id == account_id))
    for one in patients:
        await connection.execute(insert(table).values(account_id=account_id, patient=one.patient, display=one.display))


# Sessions --------------------------------------------------------------------------------------------------------------


async def web_session(connection: AsyncConnection, hash_: str) -> WebSession | None:
    """By the hash of its cookie."""
    return await one_row(connection, WebSession, t.web_session, hash_)


async def hold_web_session(connection: AsyncConnection, hash_: str, account_id: str) -> bool:
    """Whether this person's session is still there; then it does not end before this transaction does. After the client and the account."""
    mine = select(t.web_session.c.hash).where(t.web_session.c.hash == hash_, t.web_session.c.account_id == account_id)
    return (await connection.execute(mine.with_for_update(read=True))).first() is not None


async def add_web_session(connection: AsyncConnection, value: WebSession) -> None:
    """Begin a session."""
    await connection.execute(insert(t.web_session).values(**as_row(value)))


async def touch_web_session(connection: AsyncConnection, hash_: str, at: datetime) -> None:
    """It was used just now."""
    await connection.execute(update(t.web_session).where(t.web_session.c.hash == hash_).values(seen_at=at))


async def pick_session_patient(connection: AsyncConnection, hash_: str, patient: str) -> bool:
    """Whose record this session shows from now on."""
    return await changed(connection, update(t.web_session).where(t.web_session.c.hash == hash_).values(patient=patient))


async def end_web_session(connection: AsyncConnection, hash_: str) -> None:
    """Sign out."""
    await connection.execute(delete(t.web_session).where(t.web_session.c.hash == hash_))


async def end_web_sessions_of(connection: AsyncConnection, account_id: str, at: datetime) -> None:
    """Sign out everywhere: the password changed, or the account was disabled. No browser is hers any more until she signs in there again."""
    await connection.execute(delete(t.web_session).where(t.web_session.c.account_id == account_id))
    await connection.execute(delete(t.known_browser).where(t.known_browser.c.account_id == account_id))
    await end_online_access(connection, account_id, at)


async def end_online_access(connection: AsyncConnection, account_id: str, at: datetime) -> None:
    """End what apps got for as long as this person is signed in."""
    table = oauth_tables.grant
    online = update(table).where(table.c.account_id == account_id, table.c.online_until.is_not(None), table.c.revoked_at.is_(None))
    await connection.execute(online.values(revoked_at=at, revoked_reason="signed-out"))


async def web_sessions_of(connection: AsyncConnection, account_id: str) -> tuple[WebSession, ...]:
    """All of one person, the latest used first."""
    rows = await connection.execute(
        select(t.web_session).where(t.web_session.c.account_id == account_id).order_by(t.web_session.c.seen_at.desc(), t.web_session.c.hash)
    )
    return tuple(found for row in rows if (found := as_value(WebSession, row)) is not None)


async def end_other_web_sessions(connection: AsyncConnection, account_id: str, *, keep: str) -> None:
    """Sign out everywhere else."""
    await connection.execute(delete(t.web_session).where(t.web_session.c.account_id == account_id, t.web_session.c.hash != keep))


async def rename_web_session(connection: AsyncConnection, hash_: str, new: str) -> bool:
    """The session goes on with another cookie."""
    return await changed(connection, update(t.web_session).where(t.web_session.c.hash == hash_).values(hash=new))


# Attempts to sign in ---------------------------------------------------------------------------------------------------


async def count_attempt(connection: AsyncConnection, key: str, at: datetime, window_began: datetime) -> tuple[int, datetime]:
    """Count one more attempt. Returns how many there were since when, this one included; an older window begins anew.

    One statement: on PostgreSQL a success may forget the row between two.
    """
    table, make = t.sign_in_attempt, postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    over = table.c.since <= window_began
    counted = (
        make(table)
        .values(key=key, count=1, since=at)
        .on_conflict_do_update(
            index_elements=["key"],
            set_={"count": case((over, 1), else_=table.c.count + 1), "since": case((over, literal(at, UtcDateTime())), else_=table.c.since)},
        )
        .returning(table.c.count, table.c.since)
    )
    row = (await connection.execute(counted)).one()
    return int(row[0]), row[1]


async def uncount_attempt(connection: AsyncConnection, key: str) -> None:
    """Take one attempt back: it succeeded."""
    table = t.sign_in_attempt
    await connection.execute(update(table).where(table.c.key == key, table.c.count > 0).values(count=table.c.count - 1))


async def forget_attempts(connection: AsyncConnection, key: str) -> None:
    """A success clears the count."""
    await connection.execute(delete(t.sign_in_attempt).where(t.sign_in_attempt.c.key == key))
