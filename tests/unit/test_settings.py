"""What the settings accept, and the one line that says what is wrong with a value."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from celery.app.backends import BACKEND_ALIASES

from models.database import normal_url
from triggers.errors import ConfigurationError
from triggers.settings import BACKEND_SCHEMES, DATABASE_DRIVERS, Settings, without_password

ROOT = Path(__file__).parents[2]


def refusal(name: str, value: str) -> str:
    """The line with which a value is refused."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environment({name: value})
    line = str(caught.value)
    assert line.startswith(f"{name}=")
    assert "must be" in line
    assert line.isprintable()
    return line


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("DATABASE_URL", "postgresql://u:hush@h:bad/d", "host:5432"),
        ("DATABASE_URL", "postgresql://u:hush@h:65536/d", "port"),
        ("DATABASE_URL", "postgresql://u:hush@[::1/d", "SQLAlchemy URL"),
        ("DATABASE_URL", "sqlite+foo:///x.db", "sqlite+pysqlite://"),
        ("DATABASE_URL", "postgresql+psycopg2://", "postgresql+psycopg://"),
        ("DATABASE_URL", "postgres+psycopg2://u:hush@h/d", "postgresql+psycopg://"),
        ("DATABASE_URL", "mysql://u:hush@h/d", "SQLite or PostgreSQL"),
        ("DATABASE_URL", "postgresql//u:hush@h/d", "SQLite or PostgreSQL"),
        ("DATABASE_URL", "sqlite://host/x.db", "three slashes"),
        ("DATABASE_URL", "sqlite+pysqlite:///:memory:", "a file"),
        ("DATABASE_URL", "sqlite:///file:x?mode=memory&uri=true", "a file"),
        ("CELERY_RESULT_BACKEND", "foo://x", "redis, rediss"),
        ("CELERY_RESULT_BACKEND", "redis://:hush@h/x", "number of a database"),
        ("CELERY_RESULT_BACKEND", "rediss://:hush@h/1", "ssl_cert_reqs"),
        ("CELERY_RESULT_BACKEND", "db+nothing", "db+sqlite:///results.db"),
        ("CELERY_BROKER_URL", "redis://h:1/notadb", "number of a database"),
        ("CELERY_BROKER_URL", "redis://u:hush@h:1/-1", "number of a database"),
        ("CELERY_BROKER_URL", "redis://u:hush@no such host/0", "host"),
        ("CELERY_BROKER_URL", "amqp://u:hush@h:bad//", "port"),
        ("CELERY_BROKER_URL", "kafka://h", "redis://"),
        ("HOST", "no such host", "host name or an address"),
        ("HOST", "[::1]", "host name or an address"),
        ("HOST", "256.0.0.1", "host name or an address"),
        ("HOST", "a..b", "host name or an address"),
        ("HOST", "-x", "host name or an address"),
        ("HOST", "x" * 64, "host name or an address"),
        ("ALLOWED_TASKS", "a*b", "a star only at the end"),
        ("ALLOWED_TASKS", "a.*,**", "a star only at the end"),
        ("TASK_MODULES", ".", "names of modules"),
        ("TASK_MODULES", ".x", "names of modules"),
        ("TASK_MODULES", "a.b,c/d", "names of modules"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_says_what_is_allowed(
    name: str, value: str, allowed: str
) -> None:
    line = refusal(name, value)
    assert allowed in line
    assert "hush" not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "sqlite:////var/lib/some where/x.db"),
        ("DATABASE_URL", "postgresql:///d?host=/run/postgresql"),
        ("DATABASE_URL", "postgresql://u:p@/d?host=a:1&host=b:2"),
        *(("DATABASE_URL", f"{driver}:///x") for driver in DATABASE_DRIVERS),
        ("CELERY_RESULT_BACKEND", "rpc"),
        ("CELERY_RESULT_BACKEND", "cache+memcached://h:11211/"),
        ("CELERY_RESULT_BACKEND", "db+mysql://u:p@h/d"),
        ("CELERY_RESULT_BACKEND", "rediss://h/1?ssl_cert_reqs=CERT_REQUIRED"),
        ("CELERY_BROKER_URL", "redis://h"),
        ("CELERY_BROKER_URL", "redis://:p@ss@[::1]:6379/0"),
        ("CELERY_BROKER_URL", "amqps://u:p@h:5671/some.vhost"),
        *(("HOST", name) for name in ("localhost", "my_host", "a-b.example.org.")),
        *(("HOST", address) for address in ("::", "fe80::1%eth0", "10.0.0.1")),
        ("ALLOWED_TASKS", "*"),
        ("ALLOWED_TASKS", "a.b, c.*"),
        ("TASK_MODULES", "a, b.c_d"),
    ],
)
def test_what_is_allowed_is_accepted(name: str, value: str) -> None:
    settings = Settings.from_environment({name: value})
    read = getattr(settings, name.lower())
    assert read == value or ", ".join(read) == value


def test_every_backend_that_celery_knows_is_accepted() -> None:
    assert set(BACKEND_ALIASES) <= set(BACKEND_SCHEMES)


def test_every_url_of_a_database_that_is_accepted_can_be_opened() -> None:
    for driver in DATABASE_DRIVERS:
        settings = Settings.from_environment({"DATABASE_URL": f"{driver}:///x"})
        assert normal_url(settings.database_url).get_driver_name() in ("pysqlite", "psycopg")


def test_a_password_is_not_shown_wherever_it_stands() -> None:
    assert without_password("redis://:a@b@h/0") == "redis://:***@h/0"
    assert without_password("postgresql://h/d?user=u&password=hush&x=1") == (
        "postgresql://h/d?user=u&password=***&x=1"
    )
    assert without_password("u:hush@h/d") == "***@h/d"


def test_the_example_names_every_setting_with_its_default() -> None:
    example = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    names = {field.name.upper() for field in fields(Settings)} - {"BROKER_IS_DEFAULT"}
    assert set(example) == names
    read, default = Settings.from_environment(example), Settings()
    for name in names - {"CELERY_BROKER_URL"}:
        assert getattr(read, name.lower()) == getattr(default, name.lower()), name
