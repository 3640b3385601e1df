"""What Alembic runs for each command: on the connection that `gateway.store.schema` opened, in the transaction that it began."""

from __future__ import annotations

from alembic import context

from gateway.store import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.tables(),
    render_as_batch=True,  # SQLite alters a table by copying it
    render_item=schema.render_item,
    transactional_ddl=True,  # both databases can; `schema` holds the one transaction
)
context.run_migrations()
