"""Fixtures that hand out real servers. A session shares PostgreSQL and RabbitMQ; Valkey is each test's own.

| fixture | is |
|---|---|
| `database_url` | a migrated database, the test runs once on SQLite and once on PostgreSQL |
| `sqlite_url`, `postgres_url` | a migrated database of that kind |
| `empty_database_url`, `empty_sqlite_url`, `empty_postgres_url` | the same without any table |
| `broker_url`, `valkey` | a Valkey of this test's own, to kill, freeze and flush: its URL, the server |
| `rabbitmq_url`, `rabbitmq` | a virtual host of this test's own, the server all tests share |
| `postgres`, `private_postgres` | the server all tests share, and one to kill and to freeze |
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import PostgreSQL, RabbitMQ, Valkey


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever uses RabbitMQ is marked so, without having to say it."""
    for item in items:
        if "rabbitmq" in getattr(item, "fixturenames", ()):
            item.add_marker("rabbitmq")


# ------------------------------------------------------------------------------------------ SQLite


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'triggerbeat.db'}"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file, made once and copied: a copy takes a hundredth of a migration's time."""
    from models.database import migrate

    template = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate(f"sqlite:///{template}")
    return template


@pytest.fixture
def sqlite_url(empty_sqlite_url: str, tmp_path: Path, sqlite_template: Path) -> str:
    shutil.copy(sqlite_template, tmp_path / "triggerbeat.db")
    return empty_sqlite_url


# -------------------------------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    with PostgreSQL(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def private_postgres(tmp_path: Path) -> Iterator[PostgreSQL]:
    with PostgreSQL(tmp_path / "postgres") as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgreSQL) -> str:
    """The name of a migrated database to copy. Nobody may connect to it, or it could not be copied."""
    from models.database import migrate

    name = postgres.create_database(name="template_migrated")
    migrate(postgres.url(name))
    postgres.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
    return name


@pytest.fixture
def empty_postgres_url(postgres: PostgreSQL) -> Iterator[str]:
    name = postgres.create_database()
    yield postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture
def postgres_url(postgres: PostgreSQL, postgres_template: str) -> Iterator[str]:
    name = postgres.create_database(template=postgres_template)
    yield postgres.url(name)
    postgres.drop_database(name)


# ---------------------------------------------------------------------------------- either of them


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param])
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    fixture = {"sqlite": "empty_sqlite_url", "postgresql": "empty_postgres_url"}[request.param]
    url: str = request.getfixturevalue(fixture)
    return url


# ----------------------------------------------------------------------------------------- brokers


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def broker_url(valkey: Valkey) -> str:
    return valkey.url


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    if not RabbitMQ.installed():
        reason = "RabbitMQ is missing: apt-get install rabbitmq-server"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with RabbitMQ(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture
def rabbitmq_url(rabbitmq: RabbitMQ) -> str:
    return rabbitmq.url(rabbitmq.create_virtual_host())
