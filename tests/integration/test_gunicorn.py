"""The endpoint under gunicorn, as `up` starts it: what its clients send is not always HTTP."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from models.database import Database
from tests.processes import Process, free_port
from triggers.store import reads

TOKEN = "a-token"
BODY = b'{"name": "t", "schedule": {"type": "manual"}, "target": {"type": "log"}}'
HEAD = (
    f"POST /triggers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    "Content-Type: application/json\r\n"
).encode()
CHUNK = b"%x\r\n%s" % (len(BODY), BODY)


class Gunicorn:
    """The server, and the database behind it."""

    def __init__(self, url: str, port: int) -> None:
        self.port = port
        self.database = Database(url)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def send(self, data: bytes, *, half_close: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Send bytes and read the one answer."""
        with self.connect() as sock:
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            return read_answer(sock)

    def names(self) -> list[str]:
        """The triggers that are stored."""
        with self.database.read() as connection:
            return [item["name"] for item in reads.trigger_page(connection, limit=100)["items"]]


def read_answer(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    with sock.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers = {}
        while line := file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, file.read(int(headers["content-length"]))


@contextmanager
def serving(url: str, directory: Path, **environment: str) -> Iterator[tuple[Gunicorn, Process]]:
    port = free_port()
    environment |= {
        "DATABASE_URL": url,
        "ADMIN_TOKEN": TOKEN,
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",  # nothing here is due soon, so it is not asked
    }
    config = "python:triggers.gunicorn_config"
    command = [sys.executable, "-m", "gunicorn", "-c", config, "triggers.api:create_app()"]
    root = Path(__file__).parents[2]
    with Process(command, directory, env=environment, name="gunicorn", cwd=root) as process:
        process.expect("Booting worker", 60)
        made = Gunicorn(url, port)
        yield made, process
        made.database.close()


@pytest.fixture
def server(sqlite_url: str, tmp_path: Path) -> Iterator[Gunicorn]:
    with serving(sqlite_url, tmp_path) as (made, _):
        yield made


def is_problem(answer: tuple[int, dict[str, str], bytes], status: int) -> None:
    assert answer[0] == status, answer
    assert answer[1]["content-type"] == "application/problem+json"
    assert json.loads(answer[2])["status"] == status


def test_what_does_not_come_whole_or_is_no_http_is_refused_with_problem_details(server: Gunicorn) -> None:
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    for rest in (
        b"ZZ\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"-5\r\n" + BODY + b"\r\n0\r\n\r\n",
        CHUNK + b"more\r\n0\r\n\r\n",
        CHUNK + b"\r\n0\r\nno trailer\r\n\r\n",
        CHUNK + b"\r\n5;\r\r\n",
    ):
        is_problem(server.send(chunked + rest), 400)
    for rest in (b"", CHUNK[:20], CHUNK, CHUNK + b"\r\n", CHUNK + b"\r\n0\r\n"):
        is_problem(server.send(chunked + rest, half_close=True), 400)
    short = HEAD + b"Content-Length: %d\r\n\r\n" % (len(BODY) + 1)
    is_problem(server.send(short + BODY, half_close=True), 400)
    is_problem(server.send(b"what is this\r\n\r\n"), 400)
    is_problem(server.send(b"GET /triggers?tag=%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * 9000)), 414)
    is_problem(server.send(HEAD + b"X: %s\r\n\r\n" % (b"x" * 9000)), 431)
    assert server.names() == []

    assert server.send(chunked + CHUNK + b"\r\n0\r\n\r\n")[0] == 201
    assert server.names() == ["t"]


def test_slow_clients_do_not_stop_it(server: Gunicorn) -> None:
    with ExitStack() as stack:
        for _ in range(24):
            sock = stack.enter_context(server.connect())
            sock.sendall(HEAD + b"Content-Length: 10\r\n\r\n{")
        assert server.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200


@pytest.mark.parametrize(("level", "lines"), [("INFO", 1), ("WARNING", 0)])
def test_each_request_has_a_line_unless_log_level_hides_it(
    sqlite_url: str, tmp_path: Path, level: str, lines: int
) -> None:
    with serving(sqlite_url, tmp_path, LOG_LEVEL=level) as (server, process):
        assert server.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
        process.terminate(10)  # so that all is written
        assert process.output().count("GET /healthz") == lines
