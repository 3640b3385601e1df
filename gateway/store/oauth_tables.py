"""The tables of the authorization server, but for people's own (`people_tables`). Secrets are kept as SHA-256 (`hash` columns)."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, ForeignKey, Index, Integer, LargeBinary, String, Table, Text, UniqueConstraint

from gateway.store.base import UtcDateTime, metadata

_HASH = String(64)
_NAME = String(255)

client = Table(
    "oauth_client",
    metadata,
    Column("id", _NAME, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("auth_method", String(32), nullable=False),
    Column("grant_types", JSON, nullable=False),
    Column("redirect_uris", JSON, nullable=False),
    Column("scope", Text, nullable=False),
    Column("ehrs", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("secret_hash", _HASH, nullable=False, default=""),
    Column("jwks", JSON(none_as_null=True)),
    Column("jwks_uri", Text, nullable=False, default=""),
    Column("launch_uri", Text, nullable=False, default=""),
    Column("push", JSON(none_as_null=True)),
    Column("registered", JSON(none_as_null=True)),
    Column("disabled_at", UtcDateTime),
    Column("pending_since", UtcDateTime),
    Column("registration_hash", _HASH, nullable=False, default="", server_default=""),
    Column("old_secret_hash", _HASH, nullable=False, default="", server_default=""),
    Column("old_secret_until", UtcDateTime),
)

# What the operator handed out so that a developer may register a client (the initial access token of RFC 7591).
invite = Table(
    "registration_invite",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("hash", _HASH, nullable=False, unique=True),
    Column("ehr", _NAME, nullable=False),
    Column("scope", Text, nullable=False),
    Column("uses_left", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

# The web origins of a client's redirect URIs: who may call from a browser (CORS, ATK-O29).
client_origin = Table(
    "oauth_client_origin",
    metadata,
    Column("client_id", _NAME, ForeignKey("oauth_client.id", ondelete="CASCADE"), primary_key=True),
    Column("origin", _NAME, primary_key=True, index=True),
)

transaction = Table(
    "authorization_transaction",
    metadata,
    Column("hash", _HASH, primary_key=True),
    Column("browser_hash", _HASH, nullable=False),
    Column("ehr", _NAME, nullable=False),
    Column("client_id", _NAME, nullable=False),
    Column("request", JSON, nullable=False),
    Column("state", String(8), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("launch_hash", _HASH, nullable=False, default=""),
    Column("session_hash", _HASH, nullable=False, default=""),
    Column("patient", String(64), nullable=False, default=""),
    Column("trial", _HASH, nullable=False, default="", server_default=""),
)

launch = Table(
    "launch",
    metadata,
    Column("hash", _HASH, primary_key=True),
    Column("ehr", _NAME, nullable=False),
    Column("client_id", _NAME, nullable=False),
    Column("patient", String(64), nullable=False, default=""),
    Column("encounter", String(64), nullable=False, default=""),
    Column("account_id", String(32), nullable=False, default=""),
    Column("need_patient_banner", Boolean, nullable=False),
    Column("state", String(8), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("extra", JSON(none_as_null=True)),
    Column("trial", _HASH, nullable=False, default="", server_default=""),
)

# Authorization requests that apps pushed ahead of the browser (RFC 9126). A row is there until its one use.
pushed_request = Table(
    "pushed_request",
    metadata,
    Column("hash", _HASH, primary_key=True),
    Column("ehr", _NAME, nullable=False),
    Column("client_id", _NAME, ForeignKey("oauth_client.id", ondelete="CASCADE"), nullable=False),
    Column("request", JSON, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

# What a person does not want to be asked again: her choice for one app, at one address of it, about one patient.
remembered_consent = Table(
    "remembered_consent",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("account_id", String(32), ForeignKey("account.id", ondelete="CASCADE"), nullable=False),
    Column("client_id", _NAME, ForeignKey("oauth_client.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("ehr", _NAME, nullable=False),
    Column("patient", String(64), nullable=False),
    Column("redirect_uri", Text, nullable=False),
    Column("asked", Text, nullable=False),
    Column("ticked", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    UniqueConstraint("account_id", "client_id", "ehr", "patient"),
)

grant = Table(
    "oauth_grant",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("ehr", _NAME, nullable=False),
    Column("client_id", _NAME, nullable=False),
    Column("scope", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("account_id", String(32), nullable=False, default="", index=True),
    Column("patient", String(64), nullable=False, default=""),
    Column("encounter", String(64), nullable=False, default=""),
    Column("context", String(8), nullable=False, default=""),
    Column("need_patient_banner", Boolean, nullable=False),
    Column("exchanged_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("revoked_reason", String(64), nullable=False, default=""),  # for who looks into the store: nothing here reads it
    Column("extra", JSON(none_as_null=True)),
    Column("online_until", UtcDateTime),
    Column("trial", _HASH, nullable=False, default="", server_default=""),
)

code = Table(
    "authorization_code",
    metadata,
    Column("hash", _HASH, primary_key=True),
    Column("grant_id", String(32), ForeignKey("oauth_grant.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("client_id", _NAME, nullable=False),
    Column("redirect_uri", Text, nullable=False),
    Column("code_challenge", String(43), nullable=False),
    Column("nonce", Text, nullable=False),
    Column("auth_time", UtcDateTime, nullable=False),
    Column("state", String(8), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

access_token = Table(
    "access_token",
    metadata,
    Column("hash", _HASH, primary_key=True),
    Column("grant_id", String(32), ForeignKey("oauth_grant.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("scope", Text, nullable=False),
    Column("issued_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("revoked_at", UtcDateTime),
    Column("replaces", _HASH, nullable=False, default="", server_default=""),
)

refresh_token = Table(
    "refresh_token",
    metadata,
    Column("hash", _HASH, primary_key=True),
    Column("grant_id", String(32), ForeignKey("oauth_grant.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("state", String(8), nullable=False),
    Column("issued_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("replaces", _HASH, nullable=False, default="", server_default=""),
)

# Assertions that were used (RFC 7523 section 3, SMART "Validating the request": jti per issuer).
assertion_jti = Table(
    "assertion_jti",
    metadata,
    Column("hash", _HASH, primary_key=True),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

# Private keys that sign id_tokens, sealed. The first process to fill a slot wins it. A key is published at once and signs from `signs_at` on.
signing_key = Table(
    "signing_key",
    metadata,
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("signs_at", UtcDateTime),
)

Index("ix_oauth_grant_client", grant.c.client_id)
