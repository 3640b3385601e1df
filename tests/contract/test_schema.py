"""The schema is made once, checked at each start, and the same whether migrated or written in the code. SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

import gateway
from gateway.errors import ConfigError
from gateway.store import schema
from gateway.store.base import Database
from gateway.store.schema import State


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def database(request: pytest.FixtureRequest, tmp_path: Path):
    url = f"sqlite+aiosqlite:///{tmp_path}/store.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = Database(url)
    yield made
    await made.close()


async def test_an_empty_store_is_made(database: Database):
    """The first start makes all tables of all modules; the second finds them."""
    assert await schema.state(database) is State.EMPTY
    await schema.prepare(database)
    assert await schema.state(database) is State.CURRENT
    await schema.prepare(database)
    async with database.read() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    assert set(names) == {*schema.tables().tables, "alembic_version"}


async def test_the_migrations_make_what_the_code_says(database: Database):
    """A column that is in the code and not in a migration, or the other way round, turns this red. Fix: scripts/make-migration."""
    await schema.prepare(database)

    def compare(connection: Connection) -> list[object]:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), schema.tables())

    async with database.read() as connection:
        assert await connection.run_sync(compare) == []


async def test_a_migration_is_named_after_its_revision(database: Database):
    """The files' names say what Alembic finds in them, in its order: a start reads the names alone."""
    async with database.read() as connection:
        found = await connection.run_sync(lambda sync: [one.revision for one in ScriptDirectory.from_config(schema.config(sync)).walk_revisions()])
    assert schema.revisions() == found[::-1]


async def test_a_store_of_a_newer_gateway_is_refused(database: Database):
    """A revision that is not known here was made by a newer version: neither start nor upgrade touches it."""
    await schema.prepare(database)
    async with database.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '8888'"))
    for start in (schema.prepare, schema.upgrade):
        with pytest.raises(ConfigError, match="newer"):
            await start(database)


async def test_an_older_revision_is_refused_and_upgraded(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """FAULT-D5: a store of an older version is refused with the fix; `upgrade` brings it to this one and keeps its rows."""
    await schema.prepare(database)
    scripts = _with_one_more(tmp_path)
    monkeypatch.setattr(schema, "SCRIPTS", scripts)
    assert await schema.state(database) is State.BEHIND
    with pytest.raises(ConfigError, match="older") as caught:
        await schema.prepare(database)
    assert caught.value.fix == "gateway store upgrade"
    await schema.upgrade(database)
    assert await schema.state(database) is State.CURRENT
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM one_more"))).scalar_one() == 0


def _with_one_more(tmp_path: Path) -> Path:
    """The migrations as they are, and a later one."""
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    for path in schema.SCRIPTS.rglob("*.*"):
        if path.suffix in {".py", ".mako"}:
            (folder / path.relative_to(schema.SCRIPTS)).write_text(path.read_text())
    newest = max(path.name[:4] for path in (folder / "versions").glob("[0-9]*.py"))
    (folder / "versions" / "9999_more.py").write_text(
        f"from alembic import op\nimport sqlalchemy as sa\nrevision = '9999'\ndown_revision = '{newest}'\n"
        "def upgrade():\n    op.create_table('one_more', sa.Column('id', sa.Integer(), primary_key=True))\n"
    )
    return folder


async def test_a_failing_migration_leaves_nothing(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """All or nothing, on both databases: the tables made before the failure are not there."""
    await schema.prepare(database)
    scripts = _with_one_more(tmp_path)
    broken = scripts / "versions" / "9999_more.py"
    broken.write_text(broken.read_text() + "    raise RuntimeError('half way')\n")
    monkeypatch.setattr(schema, "SCRIPTS", scripts)
    with pytest.raises(RuntimeError, match="half way"):
        await schema.upgrade(database)
    async with database.read() as connection:
        assert "one_more" not in await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    assert await schema.state(database) is State.BEHIND


async def test_foreign_tables_are_not_taken_over(database: Database):
    """A database with tables of those names that our migrations did not make is refused."""
    async with database.write() as connection:
        await connection.execute(text("CREATE TABLE account (id INTEGER PRIMARY KEY)"))
    for start in (schema.prepare, schema.upgrade):
        with pytest.raises(ConfigError, match="did not make"):
            await start(database)


_START = (
    "import asyncio, sys; from gateway.store import schema; from gateway.store.base import Database\n"
    "async def main():\n    database = Database(sys.argv[1]); await schema.prepare(database)\n"
    "    print(await schema.state(database)); await database.close()\n"
    "asyncio.run(main())"
)


async def test_processes_that_start_at_once_are_safe(database: Database):
    """Three processes on an empty store: all start, the schema is made once."""
    started = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", _START, database.url, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in started:
        out, error = await process.communicate()
        assert out.strip() == b"current", error.decode()


def test_the_migrations_are_part_of_the_package():
    """Everything that `prepare` needs lies in the package, so that it ships in the wheel; none of it is ignored by git."""
    found = {path.name for path in schema.SCRIPTS.rglob("*") if path.suffix in {".py", ".mako"}}
    assert {"env.py", "script.py.mako", "0001_initial.py"} <= found
    assert schema.SCRIPTS.is_relative_to(Path(gateway.__file__).parent)
    ignored = subprocess.run(["git", "check-ignore", *map(str, schema.SCRIPTS.rglob("*.py"))], cwd=schema.SCRIPTS, capture_output=True, check=False)
    assert ignored.stdout == b""
