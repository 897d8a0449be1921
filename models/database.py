"""Engine, transactions and the clock. No engine is made at import, and none survives a fork."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError, TimeoutError

from models.fork import GATE

LOCK_SECONDS = 5  # how long a statement waits for a lock before it gives up
STATEMENT_SECONDS = 60
PATIENCE_SECONDS = STATEMENT_SECONDS + 5  # for an answer; a server that is frozen never sends one
IDLE_IN_TRANSACTION_SECONDS = 60  # a frozen worker must not hold its row locks for ever
CONNECT_SECONDS = 5
IDLE_SECONDS = 1  # after this a connection is asked whether it still lives
POLL_SECONDS = 0.0005  # the first pause of a writer that waits for SQLite's lock
LONGEST_POLL_SECONDS = 0.01
PAGE_BYTES = 8 * 1024  # of SQLite's files made from now on: a burst writes half as many, a create no longer
CHECKPOINT_BYTES = 32 * 1024 * 1024  # of log; at SQLite's own 4 MB a burst writes most pages twice
CACHE_KIB = 32 * 1024  # of SQLite, a connection: its own 2 MB are less than what a burst touches
ASK_SECONDS = 5.0  # for how long the monotonic clock stands in for the database's where little depends on it
POOL_SIZE = 5
POOL_OVERFLOW = 15

# Every statement of ours has an index made for it. The planner, misled by the statistics of a table whose
# rows change by the thousand each second, would rather read all of it: seen in the claim, and in joins by id.
BY_INDEX = " ".join(
    f"-c {choice}=off"
    for choice in ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit")
)
POSTGRES_OPTIONS = (
    f"-c timezone=UTC -c lock_timeout={LOCK_SECONDS}s -c statement_timeout={STATEMENT_SECONDS}s"
    f" -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_SECONDS}s {BY_INDEX}"
)

Clock = Callable[[Connection], datetime]


class Database:
    """Where triggers and events live: `write()` and `read()` give a connection in a transaction.

    The engine is made on first use in each process: one that was made before a fork shares its sockets
    between parent and child. `clock`, if given, answers instead of the real clock (tests, simulation).
    `patience` is how many seconds PostgreSQL may take to answer a statement before its connection counts as
    broken: the server's own time limits do not help when the server is frozen.
    """

    def __init__(self, url: str, clock: Clock | None = None, *, patience: float = PATIENCE_SECONDS) -> None:
        self.url = normal_url(url)
        self.is_postgres = self.url.get_backend_name() == "postgresql"
        self._clock = clock or (postgres_clock if self.is_postgres else machine_clock)
        self._patience = patience
        self._engine: Engine | None = None
        self._pid = 0
        self._making = threading.Lock()
        self._writing = threading.Lock()
        self._asked: tuple[datetime | None, float] = (None, 0.0)

    @property
    def engine(self) -> Engine:
        """This process's engine."""
        if self._engine is None or self._pid != os.getpid():
            self._make_engine()
        assert self._engine is not None
        return self._engine

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; committed at the end, rolled back on an exception.

        Raises sqlalchemy.exc.OperationalError or TimeoutError when the database is away or its lock is not
        had within `LOCK_SECONDS`.

        SQLite has one writer. Threads of one process queue here, in order, because SQLite's own
        waiting is a poll with growing pauses.
        """
        engine = self.engine
        if self.is_postgres:
            with engine.begin() as connection:
                yield connection
            return
        end = time.monotonic() + LOCK_SECONDS
        if not self._writing.acquire(timeout=LOCK_SECONDS):
            raise TimeoutError("the database is locked")
        try:
            with GATE.transaction(engine), engine.connect() as connection:
                connection.execution_options(triggerbeat_lock_until=end)
                with connection.begin():
                    yield connection
        finally:
            self._writing.release()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        engine = self.engine
        gate = nullcontext() if self.is_postgres else GATE.transaction(engine)
        with gate, engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def statement(self) -> Iterator[Connection]:
        """For one statement that is a transaction of its own on PostgreSQL: one round trip, not three.

        Said to the driver: by SQLAlchemy's isolation level it takes this process as long as the statement.
        """
        with self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.autocommit = True
            try:
                yield connection
            finally:
                try:
                    driver.autocommit = False
                except driver.Error:  # it broke: nobody may have it for a transaction
                    connection.invalidate()

    @contextmanager
    def write_once(self) -> Iterator[Connection]:
        """As `write`, for one statement that writes: on PostgreSQL it is a transaction of its own."""
        with self.statement() if self.is_postgres else self.write() as connection:
            yield connection

    def given_now(self, connection: Connection) -> datetime | None:
        """The instant to hand to a statement; None when the statement reads PostgreSQL's clock itself."""
        return None if self._clock is postgres_clock else self._clock(connection)

    def now(self, connection: Connection) -> datetime:
        """The instant by the clock that everybody shares: the database's, or this machine's for SQLite."""
        return self._clock(connection)

    def about_now(self) -> datetime:
        """Nearly `now`, mostly without asking for it: for a judgement before a transaction.

        The clock is asked every `ASK_SECONDS`, and this machine's monotonic one counts from there.
        """
        known, asked = self._asked
        since = time.monotonic() - asked
        if known is None or since > ASK_SECONDS:
            with self.read() as connection:
                known = self.now(connection)
            self._asked, since = (known, time.monotonic()), 0.0
        return known + timedelta(seconds=since)

    def close(self) -> None:
        """Close this process's connections."""
        if self._engine is not None and self._pid == os.getpid():
            self._engine.dispose()
        self._engine = None

    def _make_engine(self) -> None:
        with self._making:
            if self._engine is not None and self._pid == os.getpid():
                return
            if self._engine is not None:  # inherited over a fork: the sockets are the parent's
                self._engine.dispose(close=False)
                self._writing = threading.Lock()
            if self.is_postgres:
                self._engine = postgres_engine(self.url, self._patience)
            else:
                self._engine = sqlite_engine(self.url)
            self._pid = os.getpid()


def normal_url(url: str) -> URL:
    """The URL with the driver we support: psycopg 3 for PostgreSQL, the standard library's for SQLite.

    Raises ValueError for other databases.
    """
    parsed = make_url("postgresql" + url[8:] if url.startswith("postgres:") else url)
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        return parsed.set(drivername="sqlite+pysqlite")
    raise ValueError(f"{backend} is not supported; use sqlite or postgresql")


def postgres_clock(connection: Connection) -> datetime:
    """The database's clock, now and not at the start of the transaction."""
    row = one_row(connection, "SELECT clock_timestamp()")
    assert row is not None
    now: datetime = row[0]
    return now.astimezone(UTC)


def one_row(connection: Connection, statement: str, parameters: Any = None) -> Sequence[Any] | None:
    """The first row of a statement in psycopg's own form, None without one. Raises SQLAlchemy's errors."""
    found = all_rows(connection, statement, parameters)
    return found[0] if found else None


def all_rows(connection: Connection, statement: str, parameters: Any = None) -> Sequence[Sequence[Any]]:
    """The rows of a statement in psycopg's own form. Raises SQLAlchemy's errors.

    For the statements of which there are most: through SQLAlchemy's layers each takes this process twice as
    long.
    """
    from psycopg import Error  # only with PostgreSQL: the driver is an extra

    driver: Any = connection.connection.driver_connection
    try:
        found: Sequence[Sequence[Any]] = driver.execute(statement, parameters).fetchall()
    except Error as error:
        if driver.closed:
            connection.invalidate()  # or the pool, who has not seen the error, complains at length
        raise DBAPIError.instance(statement, parameters, error, Error) from error
    return found


def machine_clock(connection: Connection) -> datetime:
    """This machine's clock: with SQLite all processes share it."""
    return datetime.now(UTC)  # noqa: TID251  the one place below the entry points that reads a clock


def postgres_engine(url: URL, patience: float) -> Engine:
    """Connections that notice a peer that is gone or frozen, and never wait for ever."""
    engine = create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=LOCK_SECONDS,
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "options": POSTGRES_OPTIONS,
            "application_name": "triggerbeat",
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
        },
    )
    connect = patient_connect(patience)
    ping_what_was_idle(engine)

    @event.listens_for(engine, "do_connect")
    def do_connect(dialect: Any, record: Any, arguments: Any, options: Any) -> Any:
        return connect(*arguments, **options)

    return engine


def ping_what_was_idle(engine: Engine) -> None:
    """Look whether a connection that was left alone still lives. One that was just used need not be asked:
    that round trip is what a short transaction can best do without.
    """

    @event.listens_for(engine, "checkin")
    def checkin(connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, record: Any, proxy: Any) -> None:
        if time.monotonic() - record.info.get("used", float("inf")) < IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error  # the pool makes another


def patient_connect(patience: float) -> Callable[..., Any]:
    """psycopg's `connect`, for connections that give up on a statement without an answer."""
    import psycopg  # only with PostgreSQL: the driver is an extra

    class PatientConnection(psycopg.Connection[Any]):
        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            try:
                return super().wait(gen, interval, timeout or patience)
            except psycopg.errors._WaitTimeout:
                self.pgconn.finish()  # whatever comes now belongs to a question that nobody asks any more
                raise psycopg.OperationalError(f"the server gave no answer in {patience:g} s") from None

    return PatientConnection.connect


def sqlite_engine(url: URL) -> Engine:
    """WAL, so that readers and the writer do not wait for each other; every writer says so at BEGIN."""
    engine = create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=LOCK_SECONDS,
        pool_use_lifo=True,  # writers take turns: with one connection its cache of pages stays good
        connect_args={"timeout": LOCK_SECONDS, "isolation_level": None, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")  # of a new file; of an old one it stays
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # what was accepted survives a power cut
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_BYTES // page_bytes}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        until = connection.get_execution_options().get("triggerbeat_lock_until")
        if until is None:
            driver.execute("BEGIN")
        else:
            begin_to_write(driver, until)

    return engine


def begin_to_write(driver: Any, until: float) -> None:
    """Wait for SQLite's lock until this instant of the monotonic clock. Raises sqlalchemy's OperationalError.

    SQLite's own waiting grows to pauses of 100 ms, so that whoever waits longest comes last.
    """
    driver.execute("PRAGMA busy_timeout=0")
    pause = POLL_SECONDS
    while True:
        try:
            driver.execute("BEGIN IMMEDIATE")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise OperationalError("BEGIN IMMEDIATE", None, error) from error
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_POLL_SECONDS)
    driver.execute(f"PRAGMA busy_timeout={LOCK_SECONDS * 1000}")


MISSING = ("42P01", "42703", "no such table", "no such column")  # PostgreSQL's codes, SQLite's words


def is_away(error: BaseException) -> bool:
    """Whether the database is to blame: it is away, busy for too long, or not migrated."""
    return isinstance(error, OperationalError | InterfaceError | TimeoutError) or is_unmigrated(error)


def is_unmigrated(error: BaseException) -> bool:
    """Whether a table or a column is missing."""
    if not isinstance(error, DBAPIError):
        return False
    return getattr(error.orig, "sqlstate", None) in MISSING or str(error.orig).startswith(MISSING)


def in_one_line(error: BaseException) -> str:
    """An error of the database, without the statement and its parameters, which may hold secrets."""
    text = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    line = text.strip().partition("\n")[0] or type(error).__name__
    return f"{line} (was `triggerbeat migrate` run?)" if is_unmigrated(error) else line


def migrate(url: str) -> None:
    """Bring the schema to the newest version (Alembic, `migrations/`)."""
    from alembic import command

    command.upgrade(alembic_config(url), "head")


def alembic_config(url: str) -> Any:
    """Alembic's configuration, independent of the working directory."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent.parent / "migrations"))
    config.attributes["url"] = normal_url(url)
    return config


def schema_is_current(connection: Connection) -> bool:
    """Whether the newest migration has been applied."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    heads = ScriptDirectory(str(Path(__file__).parent.parent / "migrations")).get_heads()
    return set(MigrationContext.configure(connection).get_current_heads()) == set(heads)
