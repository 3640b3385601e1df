"""Reads and compare-and-set writes of the authorization server, on a connection that the caller opened.

Every change of state that may happen once only (a code, a launch, a refresh token, an assertion, a consent) is an UPDATE or INSERT whose
row count says whether this caller was the one (RFC 9700 section 4.2: atomic consume). None of these functions commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Table, bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store import oauth_tables as t
from gateway.store import people_tables
from gateway.store.base import Derive
from gateway.store.here import Values
from gateway.store.oauth_rows import (
    AccessToken,
    Account,
    Bearer,
    Client,
    Code,
    Grant,
    Launch,
    ListedPatient,
    PushedRequest,
    RefreshToken,
    SigningKey,
    Transaction,
)
from gateway.store.row_values import add_once, as_row, as_value, changed, made, one_row

# Clients -----------------------------------------------------------------------------------------------------------------


async def client(connection: AsyncConnection, client_id: str) -> Client | None:
    """A registered client, disabled ones included."""
    return await one_row(connection, Client, t.client, client_id, "id")


async def put_client(connection: AsyncConnection, value: Client, origins: frozenset[str]) -> None:
    """Add a client, or replace the one with that id."""
    values = as_row(value)
    if not await add_once(connection, t.client, values):
        await connection.execute(update(t.client).where(t.client.c.id == value.id).values(**values))
    await connection.execute(delete(t.client_origin).where(t.client_origin.c.client_id == value.id))
    for origin in sorted(origins):
        await connection.execute(insert(t.client_origin).values(client_id=value.id, origin=origin))


async def clients(connection: AsyncConnection) -> tuple[Client, ...]:
    """All of them, by id."""
    rows = await connection.execute(select(t.client).order_by(t.client.c.id))
    return tuple(found for row in rows if (found := as_value(Client, row)) is not None)


async def hold_client(connection: AsyncConnection, client_id: str) -> bool:
    """Whether it may be used; then nobody disables it before this transaction ends (on SQLite there is one writer at a time anyway)."""
    in_use = select(t.client.c.id).where(t.client.c.id == client_id, t.client.c.disabled_at.is_(None), t.client.c.pending_since.is_(None))
    return (await connection.execute(in_use.with_for_update(read=True))).first() is not None


async def lock_client(connection: AsyncConnection, client_id: str) -> None:
    """Nobody who holds this client has anything under way, and whoever wants to hold it waits, until this transaction ends."""
    await connection.execute(select(t.client.c.id).where(t.client.c.id == client_id).with_for_update(key_share=True))


async def disable_client(connection: AsyncConnection, client_id: str, at: datetime) -> bool:
    """From the next request on, this client and all its tokens are refused. True when this call disabled it."""
    in_use = update(t.client).where(t.client.c.id == client_id, t.client.c.disabled_at.is_(None))
    return await changed(connection, in_use.values(disabled_at=at))


async def enable_client(connection: AsyncConnection, client_id: str) -> bool:
    """It may be used again. True when this call enabled it."""
    disabled = update(t.client).where(t.client.c.id == client_id, t.client.c.disabled_at.is_not(None))
    return await changed(connection, disabled.values(disabled_at=None))


_ORIGIN = (
    select(t.client_origin.c.origin)
    .join(t.client, t.client.c.id == t.client_origin.c.client_id)
    .where(t.client_origin.c.origin == bindparam("origin"), t.client.c.disabled_at.is_(None), t.client.c.pending_since.is_(None))
    .limit(1)
)


async def origin_registered(derive: Derive, origin: str) -> bool:
    """Whether some client that is in use has a redirect URI on this web origin."""
    return await derive(_ORIGIN, {"origin": origin}, bool)


# Authorization: transaction, launch, code ------------------------------------------------------------------------------------


async def add_transaction(connection: AsyncConnection, value: Transaction) -> None:
    """A validated authorization request waits for the person."""
    await connection.execute(insert(t.transaction).values(**as_row(value)))


async def transaction(connection: AsyncConnection, hash_: str) -> Transaction | None:
    """By the hash of its handle."""
    return await one_row(connection, Transaction, t.transaction, hash_)


async def bind_transaction(connection: AsyncConnection, hash_: str, *, session_hash: str, patient: str = "") -> bool:
    """Who goes on with it. Any patient that was picked before is forgotten for `patient`, who counts when she may be picked."""
    return await changed(
        connection,
        update(t.transaction)
        .where(t.transaction.c.hash == hash_, t.transaction.c.state == "open")
        .values(session_hash=session_hash, patient=patient),
    )


async def pick_patient(connection: AsyncConnection, hash_: str, patient: str) -> bool:
    """The patient that the person chose."""
    return await changed(
        connection,
        update(t.transaction).where(t.transaction.c.hash == hash_, t.transaction.c.state == "open").values(patient=patient),
    )


async def finish_transaction(connection: AsyncConnection, hash_: str, at: datetime) -> bool:
    """End it. True once."""
    return await changed(
        connection,
        update(t.transaction)
        .where(t.transaction.c.hash == hash_, t.transaction.c.state == "open", t.transaction.c.expires_at > at)
        .values(state="done"),
    )


async def add_pushed(connection: AsyncConnection, value: PushedRequest) -> None:
    """A request that an app pushed ahead of the browser."""
    await connection.execute(insert(t.pushed_request).values(**as_row(value)))


async def pushed(connection: AsyncConnection, hash_: str) -> PushedRequest | None:
    """By the hash of its handle."""
    return await one_row(connection, PushedRequest, t.pushed_request, hash_)


async def consume_pushed(connection: AsyncConnection, hash_: str, at: datetime) -> bool:
    """Use it. True once, and only in time."""
    return await changed(connection, delete(t.pushed_request).where(t.pushed_request.c.hash == hash_, t.pushed_request.c.expires_at > at))


async def add_launch(connection: AsyncConnection, value: Launch) -> None:
    """A launch handle that the EHR hands to an app."""
    await connection.execute(insert(t.launch).values(**as_row(value)))


async def launch(connection: AsyncConnection, hash_: str) -> Launch | None:
    """By the hash of its handle."""
    return await one_row(connection, Launch, t.launch, hash_)


async def consume_launch(connection: AsyncConnection, hash_: str) -> bool:
    """Use it. True once. Whether it came in time was judged when the app sent the browser with it."""
    return await changed(connection, update(t.launch).where(t.launch.c.hash == hash_, t.launch.c.state == "open").values(state="used"))


async def add_code(connection: AsyncConnection, value: Code) -> None:
    """An authorization code on its way to the app."""
    await connection.execute(insert(t.code).values(**as_row(value)))


async def code(connection: AsyncConnection, hash_: str) -> Code | None:
    """By its hash, used ones included: a second use must be seen."""
    return await one_row(connection, Code, t.code, hash_)


async def consume_code(connection: AsyncConnection, hash_: str, at: datetime) -> bool:
    """Use it. True once, and only in time."""
    return await changed(
        connection,
        update(t.code).where(t.code.c.hash == hash_, t.code.c.state == "issued", t.code.c.expires_at > at).values(state="used"),
    )


# Grants and tokens -----------------------------------------------------------------------------------------------------------


async def add_grant(connection: AsyncConnection, value: Grant) -> None:
    """A new family."""
    await connection.execute(insert(t.grant).values(**as_row(value)))


async def grant(connection: AsyncConnection, grant_id: str) -> Grant | None:
    """By id."""
    return await one_row(connection, Grant, t.grant, grant_id, "id")


async def grants_of(connection: AsyncConnection, account_id: str) -> tuple[Grant, ...]:
    """What this person allowed and has not taken back, newest first. Codes that were never exchanged do not count."""
    table = t.grant
    rows = await connection.execute(
        select(table)
        .where(table.c.account_id == account_id, table.c.revoked_at.is_(None), table.c.exchanged_at.is_not(None))
        .order_by(table.c.created_at.desc(), table.c.id)
    )
    return tuple(found for row in rows if (found := as_value(Grant, row)) is not None)


async def grants_used_since(connection: AsyncConnection, since: datetime, *, account_id: str = "", client_id: str = "") -> tuple[Grant, ...]:
    """What was not taken back, of a person, a client, both, or all, newest first. Codes that were never exchanged do not count."""
    table = t.grant
    wanted = select(table).where(table.c.revoked_at.is_(None), table.c.exchanged_at >= since, *_whose(table, account_id, client_id))
    found = await connection.execute(wanted.order_by(table.c.created_at.desc(), table.c.id))
    return tuple(one for row in found if (one := as_value(Grant, row)) is not None)


async def end_access(connection: AsyncConnection, at: datetime, reason: str, *, account_id: str = "", client_id: str = "") -> int:
    """End every family of a person, of a client, or of both together, codes on their way too, and what was chosen once and for all.

    How many families were in force. One of the two is named.
    """
    if not (account_id or client_id):
        raise ValueError("whose access?")
    await connection.execute(delete(t.remembered_consent).where(*_whose(t.remembered_consent, account_id, client_id)))
    in_force = update(t.grant).where(t.grant.c.revoked_at.is_(None), *_whose(t.grant, account_id, client_id))
    return (await connection.execute(in_force.values(revoked_at=at, revoked_reason=reason))).rowcount


def _whose(table: Table, account_id: str, client_id: str) -> list[ColumnElement[bool]]:
    return [table.c[name] == value for name, value in (("account_id", account_id), ("client_id", client_id)) if value]


async def use_grant(connection: AsyncConnection, grant_id: str, at: datetime) -> bool:
    """Note that tokens are issued under it. False when it was revoked meanwhile."""
    return await changed(
        connection,
        update(t.grant).where(t.grant.c.id == grant_id, t.grant.c.revoked_at.is_(None)).values(exchanged_at=at),
    )


async def revoke_grant(connection: AsyncConnection, grant_id: str, at: datetime, reason: str, *, account_id: str = "") -> bool:
    """End a family: all its tokens are dead at the next request. True when this call ended it. With `account_id`, only that person's."""
    statement = update(t.grant).where(t.grant.c.id == grant_id, t.grant.c.revoked_at.is_(None))
    if account_id:
        statement = statement.where(t.grant.c.account_id == account_id)
    return await changed(connection, statement.values(revoked_at=at, revoked_reason=reason))


async def add_access_token(connection: AsyncConnection, value: AccessToken) -> None:
    """Issue it."""
    await connection.execute(insert(t.access_token).values(**as_row(value)))


async def access_token(connection: AsyncConnection, hash_: str) -> AccessToken | None:
    """By its hash."""
    return await one_row(connection, AccessToken, t.access_token, hash_)


async def revoke_access_token(connection: AsyncConnection, hash_: str, at: datetime) -> bool:
    """End one access token, and not its family."""
    return await changed(
        connection,
        update(t.access_token).where(t.access_token.c.hash == hash_, t.access_token.c.revoked_at.is_(None)).values(revoked_at=at),
    )


async def add_refresh_token(connection: AsyncConnection, value: RefreshToken) -> None:
    """Issue it."""
    await connection.execute(insert(t.refresh_token).values(**as_row(value)))


async def refresh_token(connection: AsyncConnection, hash_: str) -> RefreshToken | None:
    """By its hash, rotated ones included: a second use must be seen."""
    return await one_row(connection, RefreshToken, t.refresh_token, hash_)


async def rotate_refresh_token(connection: AsyncConnection, value: RefreshToken, at: datetime) -> bool:
    """Use it. True once, and only in time. Whoever has it got the answer in which its predecessor was replaced."""
    table = t.refresh_token
    rotated = await changed(
        connection,
        update(table).where(table.c.hash == value.hash, table.c.state == "active", table.c.expires_at > at).values(state="rotated"),
    )
    return rotated and (not value.replaces or await _spent(connection, value.replaces))


async def _spent(connection: AsyncConnection, hash_: str) -> bool:
    """What replaced it was used: from now on it is nobody's but a thief's, or a victim's. False: it is disputed, and that use proves the theft."""
    table = t.refresh_token
    seen = update(table).where(table.c.hash == hash_, table.c.state.in_(("rotated", "retried")))
    if await changed(connection, seen.values(state="spent")):
        return True
    disputed = select(table.c.hash).where(table.c.hash == hash_, table.c.state == "disputed")
    return (await connection.execute(disputed)).first() is None


async def first_use(connection: AsyncConnection, value: AccessToken) -> bool:
    """The answer in which this token came has arrived. False where it shows that two have the refresh token before it: the caller ends the family."""
    table = t.access_token
    if not await _spent(connection, value.replaces):
        return False
    await connection.execute(update(table).where(table.c.hash == value.hash).values(replaces=""))
    return True


async def rotated_at(connection: AsyncConnection, value: RefreshToken) -> datetime | None:
    """When it was replaced; None when that is forgotten."""
    table = t.refresh_token
    successor = select(table.c.issued_at).where(table.c.grant_id == value.grant_id, table.c.replaces == value.hash)
    return (await connection.execute(successor)).scalar()


async def present_again(connection: AsyncConnection, value: RefreshToken, state: str) -> bool:
    """A replaced token, of which no successor was used, came again: it is `retried` or `disputed`. False: one was used meanwhile."""
    table = t.refresh_token
    same = update(table).where(table.c.hash == value.hash, table.c.state == value.state)
    return await changed(connection, same.values(state=state))


async def revoke_unsettled(connection: AsyncConnection, value: Grant, at: datetime) -> int:
    """End the other families of this person, app and patient in which a replaced token came again and nothing was used since. How many.

    Who lost the answer has nothing of them any more; whoever has their newest tokens is not she.
    """
    table, token = t.grant, t.refresh_token
    unsettled = select(token.c.grant_id).where(token.c.state.in_(("retried", "disputed")))
    same = (table.c.account_id == value.account_id, table.c.client_id == value.client_id, table.c.ehr == value.ehr, table.c.patient == value.patient)
    others = update(table).where(*same, table.c.id != value.id, table.c.revoked_at.is_(None), table.c.id.in_(unsettled))
    return (await connection.execute(others.values(revoked_at=at, revoked_reason="refresh-unsettled"))).rowcount


async def jti_seen(connection: AsyncConnection, hash_: str) -> bool:
    """Whether this assertion was used before."""
    return (await connection.execute(select(t.assertion_jti.c.hash).where(t.assertion_jti.c.hash == hash_))).first() is not None


async def remember_jti(connection: AsyncConnection, hash_: str, expires_at: datetime) -> bool:
    """Use an assertion. True once."""
    return await add_once(connection, t.assertion_jti, {"hash": hash_, "expires_at": expires_at})


# Signing keys ----------------------------------------------------------------------------------------------------------------


_SIGNING_KEYS = select(t.signing_key).order_by(t.signing_key.c.slot.desc())


async def signing_keys(derive: Derive) -> tuple[SigningKey, ...]:
    """All of them, the newest slot first, as of the newest commit: another process may have made one."""
    return await derive(_SIGNING_KEYS, {}, _keys_of)


def _keys_of(rows: Values) -> tuple[SigningKey, ...]:
    return tuple(made(SigningKey, row, "") for row in rows)


async def add_signing_key(connection: AsyncConnection, value: SigningKey) -> bool:
    """Fill a slot. False when another process filled it first."""
    return await add_once(connection, t.signing_key, as_row(value))


async def delete_signing_keys(connection: AsyncConnection, slots: Sequence[int]) -> None:
    """Forget keys that nobody needs any more, or that nobody may trust any more."""
    await connection.execute(delete(t.signing_key).where(t.signing_key.c.slot.in_(slots)))


# Bearers ---------------------------------------------------------------------------------------------------------------------


def _labelled(table: Table, prefix: str) -> list[Any]:
    return [column.label(prefix + column.name) for column in table.c]


_BEARER = (
    select(
        *_labelled(t.access_token, "token_"),
        *_labelled(t.grant, "grant_"),
        *_labelled(t.client, "client_"),
        *_labelled(people_tables.account, "account_"),
        *_labelled(people_tables.account_patient, "listed_"),
    )
    .join(t.grant, t.grant.c.id == t.access_token.c.grant_id)
    .join(t.client, t.client.c.id == t.grant.c.client_id)
    .outerjoin(people_tables.account, people_tables.account.c.id == t.grant.c.account_id)
    .outerjoin(people_tables.account_patient, people_tables.account_patient.c.account_id == people_tables.account.c.id)
    .where(t.access_token.c.hash == bindparam("hash"))
    .order_by(people_tables.account_patient.c.patient)
)


async def bearer(derive: Derive, hash_: str) -> Bearer | None:
    """An access token with its grant, client, account and the account's list, whatever their state: the caller judges."""
    return await derive(_BEARER, {"hash": hash_}, _bearer)


def _bearer(rows: Values) -> Bearer | None:
    """One row for each patient on the account's list, or one without."""
    if not rows:
        return None
    row = rows[0]
    return Bearer(
        made(AccessToken, row, "token_"),
        made(Grant, row, "grant_"),
        made(Client, row, "client_"),
        made(Account, row, "account_") if row["account_id"] else None,
        tuple(ListedPatient(one["listed_patient"], one["listed_display"]) for one in rows if one["listed_patient"]),
    )


async def prune(connection: AsyncConnection, *, now: datetime, kept_until: datetime, idle_since: datetime, most: int = 1000) -> bool:
    """Forget what can have no effect any more, at most so many rows of each kind, so that nobody waits for long. Whether there may be more.

    `kept_until`: used codes and rotated tokens stay that long, so that reuse is seen; used assertions too, for a process whose clock is behind.
    """
    over = (
        *(
            (table, table.c.expires_at < now)
            for table in (t.transaction, t.access_token, t.pushed_request, t.remembered_consent, people_tables.pending)
        ),
        *((table, table.c.expires_at < kept_until) for table in (t.code, t.launch, t.refresh_token, t.invite, t.assertion_jti)),
        (people_tables.web_session, people_tables.web_session.c.seen_at < idle_since),
        (people_tables.sign_in_attempt, people_tables.sign_in_attempt.c.since < kept_until),
    )
    gone = [await _forget(connection, table, condition, most) for table, condition in over]
    return max(gone) == most


async def _forget(connection: AsyncConnection, table: Table, condition: ColumnElement[bool], most: int) -> int:
    """What somebody changes at this moment is left for the next time: nobody waits for this, nor this for anybody."""
    key = next(iter(table.primary_key))
    some = select(key).where(condition).limit(most).with_for_update(skip_locked=True)
    return (await connection.execute(delete(table).where(key.in_(some)))).rowcount


async def empty_grants(connection: AsyncConnection, before: datetime, *, after: str = "", most: int = 1000) -> tuple[str, ...]:
    """Grants from before that moment without any code or token that is still kept: nothing can come of them any more. By id, those `after` one.

    The newest of a client that registered itself is kept: it says that somebody let that client in once (`registrations.waiting`).
    """
    empty = select(t.grant.c.id).where(t.grant.c.id > after, t.grant.c.created_at < before, *_EMPTY)
    return tuple((await connection.execute(empty.order_by(t.grant.c.id).limit(most))).scalars())


async def forget_grants(connection: AsyncConnection, grant_ids: Sequence[str]) -> None:
    """Forget those of them that are empty. Who was allowed what stays in the audit log."""
    await connection.execute(delete(t.grant).where(t.grant.c.id.in_(grant_ids), *_EMPTY))


_newer, _by_itself = t.grant.alias(), select(t.client.c.id).where(t.client.c.id == t.grant.c.client_id, t.client.c.registration_hash != "").exists()
_EMPTY = (
    *(~select(table.c.hash).where(table.c.grant_id == t.grant.c.id).exists() for table in (t.code, t.access_token, t.refresh_token)),
    ~_by_itself | select(_newer.c.id).where(_newer.c.client_id == t.grant.c.client_id, _newer.c.created_at > t.grant.c.created_at).exists(),
)
