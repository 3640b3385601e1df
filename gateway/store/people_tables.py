"""The tables of the people who sign in: accounts, their sessions, and how else than by the password they show who they are.

Passwords are kept as argon2id, secrets of 256 bits as SHA-256 (`hash` columns).
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, String, Table, Text

from gateway.store.base import UtcDateTime, metadata

_HASH = String(64)
_NAME = String(255)


def _account(*, key: bool = False) -> Column[str]:
    return Column("account_id", String(32), ForeignKey("account.id", ondelete="CASCADE"), primary_key=key, nullable=False)


account = Table(
    "account",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("username", _NAME, nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),
    Column("ehr", _NAME, nullable=False),
    Column("fhir_user", _NAME, nullable=False),
    Column("display_name", _NAME, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("disabled_at", UtcDateTime),
)

account_patient = Table(
    "account_patient",
    metadata,
    Column("account_id", String(32), ForeignKey("account.id", ondelete="CASCADE"), primary_key=True),
    Column("patient", String(64), primary_key=True),
    Column("display", _NAME, nullable=False, default=""),
)

web_session = Table(
    "web_session",
    metadata,
    Column("hash", _HASH, primary_key=True),
    Column("account_id", String(32), ForeignKey("account.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False, index=True),
    Column("patient", String(64), nullable=False, default=""),
    Column("method", String(16), nullable=False, default="", server_default=""),
)

# How often a user name, or an address, tried to sign in since `since`. The key is a hash: no user names here.
sign_in_attempt = Table(
    "sign_in_attempt",
    metadata,
    Column("key", _HASH, primary_key=True),
    Column("count", Integer, nullable=False),
    Column("since", UtcDateTime, nullable=False),
)

# One authenticator app for each account. It counts from `confirmed_at` on. `last_step`: no code of this time step or an older one counts again.
totp = Table(
    "totp_factor",
    metadata,
    _account(key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("confirmed_at", UtcDateTime),
    Column("last_step", BigInteger, nullable=False, default=0),
)

recovery_code = Table(
    "recovery_code",
    metadata,
    Column("hash", _HASH, primary_key=True),
    _account(),
)

# `hash` is the SHA-256 of the credential id, which may be a kilobyte long.
passkey = Table(
    "passkey",
    metadata,
    Column("hash", _HASH, primary_key=True),
    _account(),
    Column("credential_id", LargeBinary, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("sign_count", BigInteger, nullable=False),
    Column("name", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime),
)

# The verified e-mail address or phone number, sealed.
contact = Table(
    "account_contact",
    metadata,
    _account(key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("verified_at", UtcDateTime, nullable=False),
)

# What waits for the next form of one browser or one person: a second factor, a one-time code, a passkey's answer. `hash` says which, and whose.
# No foreign key: a code that somebody asks for in the name of nobody waits just the same.
pending = Table(
    "pending_step",
    metadata,
    Column("hash", _HASH, primary_key=True),
    Column("account_id", String(32), nullable=False, default=""),
    Column("secret", Text, nullable=False, default=""),  # a code as argon2id, or a challenge
    Column("sealed", LargeBinary),
    Column("tries", Integer, nullable=False, default=0),
    Column("began_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

# Browsers in which a person signed in, by the hash of a cookie of their own. Several people may share one.
known_browser = Table(
    "known_browser",
    metadata,
    Column("hash", _HASH, primary_key=True),
    _account(key=True),
    Column("seen_at", UtcDateTime, nullable=False, index=True),
)

Index("ix_web_session_account", web_session.c.account_id)
Index("ix_known_browser_account", known_browser.c.account_id)
Index("ix_recovery_code_account", recovery_code.c.account_id)
Index("ix_passkey_account", passkey.c.account_id)
Index("ix_pending_step_account", pending.c.account_id)
