"""Alembic migrations. `gateway.store.schema` runs them; they ship in the wheel, and there is no alembic.ini."""
