"""HTTP deliveries against a server on loopback that misbehaves in every way we know of."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import uvloop
from standardwebhooks.webhooks import Webhook

from tests.sink import Sink
from triggers.targets import HttpRequest, Outcome, http
from triggers.targets.address import MAX_ADDRESSES
from triggers.targets.headers import check_headers
from triggers.targets.http import HttpCaller

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TOKEN = "Bearer very-private"
DEADLINE_SECONDS = 0.4
# What an attempt may take beyond its deadline on a busy machine, before a test calls it late.
MARGIN_SECONDS = 1.5

# For `hooks.test`, its own authority, good for a hundred years, and for nothing but these tests.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgG4Z7PNBwLoyi4Yjm
nMlEy8LCTPHUmYnDPx8Q+sfOSbmhRANCAATPzGAXXVZwNJ3V+rBfu8w4lSYkPtUI
iOgORnTvV3X0RS1NLHuk8JDq+P5CivCxbXB9hhvFkHs8aFBkDrCJX5oJ
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBwTCCAWagAwIBAgIUDak5jCjcrZ/2A5c0tYcOWlmxzqMwCgYIKoZIzj0EAwIw
ITEfMB0GA1UEAwwWdHJpZ2dlcmJlYXQgdGVzdHMgb25seTAgFw0yNjExMjAwODA0
MTZaGA8yMTI2MTAyNzA4MDQxNlowITEfMB0GA1UEAwwWdHJpZ2dlcmJlYXQgdGVz
dHMgb25seTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABM/MYBddVnA0ndX6sF+7
zDiVJiQ+1QiI6A5GdO9XdfRFLU0se6TwkOr4/kKK8LFtcH2GG8WQezxoUGQOsIlf
mgmjejB4MB0GA1UdDgQWBBTODuoPzQOKYBRIgu+W2/8LnJISrjAfBgNVHSMEGDAW
gBTODuoPzQOKYBRIgu+W2/8LnJISrjAPBgNVHRMBAf8EBTADAQH/MBUGA1UdEQQO
MAyCCmhvb2tzLnRlc3QwDgYDVR0PAQH/BAQDAgKEMAoGCCqGSM49BAMCA0kAMEYC
IQDP11XmzcIsODB1On9TjB5QHkhGYafPbqwhnhQe/faGxgIhAMhVa9HBbrb4OsW2
wSSNqam9YJaHWeHGXFELYFS0EtKF
-----END CERTIFICATE-----
"""


Scenario = Callable[[Sink, HttpCaller], Awaitable[None]]


def request(url: str, **changes: Any) -> HttpRequest:
    fields: dict[str, Any] = {
        "method": "POST", "url": url, "headers": {"Authorization": TOKEN}, "body": {"day": "heute: ü"},
        "secret": SECRET, "event_id": "ev_1", "scheduled_for": datetime(2026, 1, 1, 9, tzinfo=UTC),
        "attempt": 3, "timeout_seconds": 5.0,
    }  # fmt: skip
    return HttpRequest(**{**fields, **changes})


def caller(allow_private: bool = True, **changes: Any) -> HttpCaller:
    return HttpCaller(allow_private, **{"now": time.time, **changes})


def run(scenario: Scenario, the_caller: HttpCaller | None = None, receive_bytes: int | None = None) -> None:
    """Run a scenario with a sink and a caller, and see that neither leaves anything open."""

    async def main() -> None:
        calling = the_caller or caller()
        async with Sink(receive_bytes=receive_bytes) as sink:
            try:
                await scenario(sink, calling)
            finally:
                await calling.close()

    asyncio.run(main())


def failed(outcome: Outcome) -> dict[str, str]:
    """The error of an attempt that must have failed, in a form fit for people and databases."""
    assert not outcome.succeeded
    assert outcome.error is not None
    text = json.dumps([outcome.error, outcome.result])
    assert "very-private" not in text
    assert SECRET not in text
    assert "Traceback" not in text
    assert "\n" not in outcome.error["message"]
    return outcome.error


def test_a_delivery_carries_what_was_promised_and_nothing_else() -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        outcome = await calling.call(request(sink.url("/a//b/../c?x=%2f&y[]=1")))
        assert outcome == Outcome(succeeded=True, result={"status": 200, "body": '{"ok":true}'})
        (received,) = sink.requests
        assert (received.method, received.target) == ("POST", "/a//b/../c?x=%2f&y[]=1")
        assert received.body == '{"day":"heute: ü"}'
        headers = dict(received.headers)
        assert Webhook(SECRET).verify(received.body, headers) == {"day": "heute: ü"}
        assert abs(int(headers.pop("webhook-timestamp")) - time.time()) < 60
        assert headers.pop("webhook-signature").startswith("v1,")
        assert headers.pop("user-agent").startswith("triggerbeat/")
        assert headers == {
            "host": f"127.0.0.1:{sink.port}",
            "authorization": TOKEN,
            "accept": "*/*",
            "connection": "close",
            "content-type": "application/json",
            "content-length": str(len(received.body.encode())),
            "webhook-id": "ev_1",
            "idempotency-key": "ev_1",
            "triggerbeat-scheduled-for": "2026-01-01T09:00:00Z",
            "triggerbeat-attempt": "3",
        }

    run(scenario)


def test_the_timestamp_is_the_attempts_and_is_signed() -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        await calling.call(request(sink.url("/"), body=None))
        (received,) = sink.requests
        assert received.headers["webhook-timestamp"] == "1614265330"
        signed_at = datetime.fromtimestamp(1_614_265_330, UTC)
        assert received.headers["webhook-signature"] == Webhook(SECRET).sign("ev_1", signed_at, "")

    run(scenario, caller(now=lambda: 1_614_265_330.9))


def test_several_secrets_sign_and_none_does_not() -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        await calling.call(request(sink.url("/"), secret=f"{SECRET} plain-text"))
        await calling.call(request(sink.url("/"), secret=None))
        two, none = sink.requests
        assert two.headers["webhook-signature"].count("v1,") == 2
        assert "webhook-signature" not in none.headers

    run(scenario)


@pytest.mark.parametrize(
    ("scheduled_for", "text"),
    [
        (datetime(2026, 1, 1, 9, 0, 0, 500, tzinfo=UTC), "2026-01-01T09:00:00.000500Z"),
        (datetime(2026, 1, 1, 9, tzinfo=timezone(timedelta(hours=2))), "2026-01-01T07:00:00Z"),
    ],
)
def test_the_occurrence_is_sent_in_utc(scheduled_for: datetime, text: str) -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        await calling.call(request(sink.url("/"), scheduled_for=scheduled_for))
        assert sink.requests[0].headers["triggerbeat-scheduled-for"] == text

    run(scenario)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_no_body_is_sent_as_none(method: str) -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        assert (await calling.call(request(sink.url("/"), method=method, body=None))).succeeded
        (received,) = sink.requests
        assert received.headers["content-length"] == "0"
        assert "content-type" not in received.headers

    run(scenario)


@pytest.mark.parametrize(("body", "text"), [(False, "false"), (0, "0"), ("", '""'), ([], "[]"), ("é", '"é"')])
def test_any_json_value_is_a_body(body: Any, text: str) -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        await calling.call(request(sink.url("/"), body=body))
        assert sink.requests[0].body == text

    run(scenario)


def test_headers_of_the_user_replace_the_defaults() -> None:
    headers = {"content-Type": "application/cloudevents+json", "Accept": "a/b", "Accept-Encoding": "gzip"}

    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        await calling.call(request(sink.url("/"), headers=headers))
        received = sink.requests[0].headers
        assert {name.lower(): value for name, value in headers.items()}.items() <= received.items()

    run(scenario)


def test_cookies_are_not_kept() -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        for _ in range(2):
            await calling.call(request(sink.url("/status/200", host="localhost")))
        assert all("cookie" not in received.headers for received in sink.requests)

    run(scenario)


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        assert (await calling.call(request(sink.url("/")))).succeeded

    run(scenario)


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/status/204", "POST", ""),
        ("/status/299", "POST", '{"ok":true}'),
        ("/body/61*5000", "POST", "a" * 2048),
        ("/flood", "POST", "x" * 2048),
        ("/flood", "HEAD", ""),
        ("/stray/204", "POST", ""),
        ("/stray/200", "HEAD", ""),
        ("/body/61*5000", "HEAD", ""),
        ("/body/00ff61", "POST", "\N{REPLACEMENT CHARACTER}" * 2 + "a"),
        ("/body/c3", "POST", "\N{REPLACEMENT CHARACTER}"),
        ("/body/61*2047+c3a4", "POST", "a" * 2047),
        ("/chunked/c3a462", "POST", "äb"),
        ("/gzip/61", "GET", gzip.compress(b"a", mtime=0).decode("utf-8", "replace").replace("\0", "\ufffd")),
    ],
)
def test_success_keeps_the_beginning_of_the_answer(path: str, method: str, body: str) -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        outcome = await calling.call(request(sink.url(path), method=method))
        assert outcome.succeeded
        assert outcome.error is None
        assert outcome.result["body"] == body

    run(scenario)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/status/400", 400, "400 Bad Request"),
        ("/status/500", 500, "500 Internal Server Error"),
        ("/status/999", 999, "999"),
        ("/status/304", 304, "redirects are not followed"),
        ("/redirect", 302, "302 Found; redirects are not followed (to /status/200)"),
        ("/switch", 101, "101 Switching Protocols"),
    ],
)
def test_every_other_status_fails_and_is_told(path: str, status: int, words: str) -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        outcome = await calling.call(request(sink.url(path), method="GET"))
        error = failed(outcome)
        assert error["type"] == "HttpStatus"
        assert words in error["message"]
        assert outcome.result["status"] == status
        assert not outcome.gone
        assert len(sink.requests) == 1

    run(scenario)


def test_a_failure_is_told_whatever_follows_its_head() -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        outcome = await calling.call(request(sink.url("/stray/304")))
        assert failed(outcome)["message"].startswith("the target answered 304")
        outcome = await calling.call(request(sink.url("/stray/503"), method="HEAD"))
        assert (failed(outcome)["type"], outcome.retry_after) == ("HttpStatus", 7)

    run(scenario)


def test_410_means_gone() -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        outcome = await calling.call(request(sink.url("/gone")))
        assert failed(outcome)["type"] == "HttpStatus"
        assert outcome.gone
        assert outcome.result == {"status": 410, "body": "gone"}

    run(scenario)


NOW = datetime(2026, 1, 1, 9, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("1.5", 1.5),
        ("9" * 400, 31_536_000.0),
        ("-1", None),
        ("soon", None),
        ("1e9", None),
        ("nan", None),
        ("", None),
        ("Thu, 01 Jan 2026 09:02:00 GMT", 120.0),
        ("Thu, 01 Jan 2026 08:00:00 GMT", 0.0),
        ("Thu, 01 Jan 9999 00:00:00 GMT", 31_536_000.0),
        ("Thu, 99 Jan 2026 09:02:00 GMT", None),
        ("Thu, 01 Jan 2026 09:02:00 GMT|Thu, 01 Jan 2026 09:01:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 09:02:00 GMT|whenever", 120.0),
    ],
)
def test_retry_after_is_read(header: str, seconds: float | None) -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        outcome = await calling.call(request(sink.url(f"/retry-after/{quote(header)}")))
        assert failed(outcome)["type"] == "HttpStatus"
        assert outcome.retry_after == seconds

    run(scenario, caller(now=lambda: NOW))


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/hang", "Timeout"),
        ("/slow/60", "Timeout"),
        ("/drip", "Timeout"),
        ("/drip-headers", "Timeout"),
        ("/endless-continue", "Timeout"),
        ("/reset-before", "ReadError"),
        ("/reset-after", "ReadError"),
        ("/close", "ReadError"),
        ("/garbage", "InvalidAnswer"),
        ("/endless-headers", "InvalidAnswer"),
        ("/long-header", "InvalidAnswer"),
    ],
)
def test_a_target_that_misbehaves_fails_the_attempt_in_time_and_gets_one_request(
    path: str, kind: str, method: str
) -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        started = time.monotonic()
        outcome = await calling.call(request(sink.url(path), method=method, timeout_seconds=DEADLINE_SECONDS))
        assert time.monotonic() - started < DEADLINE_SECONDS + MARGIN_SECONDS
        assert failed(outcome)["type"] == kind
        # A GET that aiohttp repeats by itself would show here as a second one.
        assert len(sink.requests) == 1
        assert sink.connections == 1

    run(scenario)


def test_what_came_before_the_end_is_kept() -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        broken = await calling.call(request(sink.url("/reset-after")))
        assert broken.result == {"status": 200, "body": "part of it"}
        late = await calling.call(request(sink.url("/drip"), timeout_seconds=DEADLINE_SECONDS))
        assert late.result["status"] == 200
        assert late.result["body"].startswith(".")
        assert "reading the answer" in failed(late)["message"]

    run(scenario)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def open_sockets() -> int:
    directory = Path("/proc/self/fd")
    return sum(os.readlink(path).startswith("socket:") for path in directory.iterdir() if path.is_symlink())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_a_target_that_does_not_read_holds_no_connection_after_the_deadline() -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        await calling.call(request(sink.url("/")))
        body = "x" * 8_000_000  # more than loopback's own buffers take
        before = open_files()
        outcomes = await asyncio.gather(
            *(
                calling.call(request(sink.url("/deaf"), body=body, timeout_seconds=DEADLINE_SECONDS))
                for _ in range(4)
            )
        )
        assert {failed(outcome)["type"] for outcome in outcomes} == {"Timeout"}
        # The sink's own ends stay open: it is asleep. Ours are the other half.
        async with asyncio.timeout(5):
            while open_files() > before + 4:
                await asyncio.sleep(0.01)

    run(scenario, receive_bytes=4096)


def test_nobody_there_is_a_connect_error() -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        error = failed(await calling.call(request("http://127.0.0.1:1/")))
        assert error == {"type": "ConnectError", "message": "cannot connect: Connection refused"}

    run(scenario)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"url": "http://127.1/"}, "InvalidUrl"),
        ({"headers": {"Webhook-Id": "mine"}}, "InvalidHeaders"),
        ({"secret": "whsec_!"}, "InvalidSecret"),
        ({"body": {1, 2}}, "Unexpected"),
        ({"body": "\ud800"}, "Unexpected"),
        ({"method": "GE T"}, "Unexpected"),
    ],
)
def test_a_request_that_cannot_be_made_is_an_outcome_too(changes: dict[str, Any], kind: str) -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        url = changes.get("url", sink.url("/"))
        assert failed(await calling.call(request(**{**changes, "url": url})))["type"] == kind
        assert sink.requests == []

    run(scenario)


# ------------------------------------------------------------------------------------------- addresses


class Names:
    """A resolver that gives one answer after the other, and counts how often it is asked."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def test_the_connection_goes_to_the_address_that_was_judged_under_the_name_that_was_meant() -> None:
    names = Names(["127.0.0.1"])

    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        assert (await calling.call(request(sink.url("/", host="hooks.test")))).succeeded
        assert sink.requests[0].headers["host"] == f"hooks.test:{sink.port}"
        assert names.asked == [("hooks.test", sink.port)]

    run(scenario, caller(resolve=names))


def test_a_name_is_resolved_once_for_each_attempt_and_never_remembered() -> None:
    names = Names(["127.0.0.1"], ["127.0.0.1"], ["10.0.0.1", "0.0.0.0"])

    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        url = sink.url("/", host="hooks.test")
        assert (await calling.call(request(url))).succeeded
        assert (await calling.call(request(url, method="GET"))).succeeded
        assert failed(await calling.call(request(url)))["type"] == "ForbiddenAddress"
        assert len(names.asked) == 3
        assert sink.connections == 2

    run(scenario, caller(resolve=names))


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        ["169.254.169.254"],
        ["64:ff9b::7f00:1"],
        ["fe80::1%lo"],
    ],
)
def test_a_forbidden_answer_refuses_the_attempt(answer: list[str]) -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        outcome = await calling.call(request(sink.url("/", host="rebound.test")))
        assert failed(outcome)["type"] == "ForbiddenAddress"
        assert sink.connections == 0

    run(scenario, caller(allow_private=False, resolve=Names(answer)))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
def test_literals_and_this_machine_are_judged_at_each_attempt(host: str) -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        outcome = await calling.call(request(sink.url("/", host=host)))
        assert failed(outcome)["type"] == "ForbiddenAddress"
        assert sink.connections == 0

    run(scenario, caller(allow_private=False))


def test_a_mapped_literal_reaches_its_address() -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        assert (await calling.call(request(sink.url("/", host="[::ffff:127.0.0.1]")))).succeeded

    run(scenario)


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        assert (await calling.call(request(sink.url("/", host="hooks.test")))).succeeded

    run(scenario, caller(resolve=Names(["127.9.9.9", "127.0.0.1"])))


def refuse(host: str, port: int) -> list[str]:
    raise OSError(-2, "Name or service not known")


@pytest.mark.parametrize("resolve", [refuse, Names([]), Names(["what?"])])
def test_a_name_without_an_address_is_a_resolve_error(resolve: Callable[[str, int], list[str]]) -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        error = failed(await calling.call(request("http://nosuch.test/")))
        assert error["type"] == "ResolveError"
        assert "nosuch.test" in error["message"]

    run(scenario, caller(resolve=resolve))


def test_names_that_hang_hold_up_no_other_name_and_end_by_the_deadline() -> None:
    released = threading.Event()
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        if host.startswith("hang"):
            released.wait(30)
        return ["127.0.0.1"]

    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        hanging = [
            asyncio.create_task(
                calling.call(request(sink.url("/", host=f"hang{number}.test"), timeout_seconds=3.0))
            )
            for number in range(1_000)
        ]
        started = time.monotonic()
        async with asyncio.timeout(3):
            while len(asked) < len(hanging):
                await asyncio.sleep(0.01)
        assert (await calling.call(request(sink.url("/", host="fine.test")))).succeeded
        assert not any(task.done() for task in hanging)
        for outcome in await asyncio.gather(*hanging):
            assert "looking up the name" in failed(outcome)["message"]
        assert time.monotonic() - started < 3.0 + MARGIN_SECONDS

    try:
        run(scenario, caller(resolve=resolve))
    finally:
        released.set()


def test_names_that_were_slow_leave_room_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SLOW_SECONDS", 0.05)
    holding: list[threading.Event] = []

    def resolve(host: str, port: int) -> list[str]:
        if host.startswith("slow"):
            holding.append(threading.Event())
            holding[-1].wait(30)
        return ["127.0.0.1"]

    async def until(found: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not found():
                await asyncio.sleep(0.01)

    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        def call_slow() -> list[asyncio.Task[Outcome]]:
            urls = [sink.url("/", host=f"slow{number}.test") for number in range(8)]
            return [asyncio.create_task(calling.call(request(url))) for url in urls]

        first = call_slow()
        await until(lambda: len(holding) == 8)  # of ten threads, two of them for names that were slow
        await asyncio.sleep(0.1)
        for one in holding:
            one.set()
        assert all(outcome.succeeded for outcome in await asyncio.gather(*first))
        holding.clear()
        again = call_slow()
        await until(lambda: len(holding) == 2)
        for number in range(8):
            assert (await calling.call(request(sink.url("/", host=f"fine{number}.test")))).succeeded
        assert len(holding) == 2
        while not all(task.done() for task in again):
            for one in holding:
                one.set()
            await asyncio.sleep(0.01)
        assert all(task.result().succeeded for task in again)

    try:
        run(scenario, caller(resolve=resolve, max_lookups=10))
    finally:
        for one in holding:
            one.set()


def test_a_thread_that_cannot_be_had_is_a_resolve_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(http, "start_new_thread", none_left)

    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        assert failed(await calling.call(request("http://fine.test/")))["type"] == "ResolveError"

    run(scenario, caller(resolve=Names(["127.0.0.1"])))


@contextmanager
def silent_port() -> Iterator[int]:
    """A port on every address of loopback where nobody answers: the queue for accepting is full."""
    with ExitStack() as opened:
        listener = opened.enter_context(socket.socket())
        listener.bind(("0.0.0.0", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        for _ in range(8):
            filler = opened.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_of_many_silent_addresses_a_few_are_tried() -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        with silent_port() as port:
            before = open_files()
            url = f"http://silent.test:{port}/"
            call = asyncio.create_task(calling.call(request(url, timeout_seconds=2.5)))
            most = 0
            while not call.done():
                most = max(most, open_files() - before)
                await asyncio.sleep(0.02)
            assert failed(call.result())["type"] == "Timeout"
            assert most == MAX_ADDRESSES

    run(scenario, caller(resolve=Names([f"127.0.9.{number}" for number in range(1, 30)])))


# ------------------------------------------------------------------------------------------------- TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "hooks.test.pem"
    path.write_text(CERTIFICATE)
    return path


def deliver_over_tls(certificate: Path, host: str, trusted: bool) -> Outcome:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    tls = ssl.create_default_context(cafile=str(certificate)) if trusted else None

    async def main() -> Outcome:
        calling = caller(resolve=Names(["127.0.0.1"]), tls=tls)
        try:
            async with Sink(tls=server) as sink:
                outcome = await calling.call(request(sink.url("/", host=host)))
                assert len(sink.requests) == int(outcome.succeeded)
                return outcome
        finally:
            await calling.close()

    return asyncio.run(main())


def test_a_trusted_certificate_is_checked_against_the_name_and_not_the_address(certificate: Path) -> None:
    assert deliver_over_tls(certificate, "hooks.test", trusted=True).succeeded


@pytest.mark.parametrize(
    ("host", "trusted"), [("hooks.test", False), ("other.test", True), ("127.0.0.1", True)]
)
def test_a_certificate_that_does_not_fit_is_refused(certificate: Path, host: str, trusted: bool) -> None:
    error = failed(deliver_over_tls(certificate, host, trusted))
    assert error["type"] == "TlsError"
    assert "certificate" in error["message"]


def test_a_target_that_does_not_speak_tls_ends_by_the_deadline() -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        url = sink.url("/").replace("http://", "https://")
        outcome = await calling.call(request(url, timeout_seconds=DEADLINE_SECONDS))
        assert failed(outcome)["type"] in ("TlsError", "ConnectError", "Timeout")

    run(scenario)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_a_tls_target_that_says_no_farewell_holds_no_connection_after_its_answer(certificate: Path) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    done = threading.Event()

    def answer(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with server.wrap_socket(accepted, server_side=True) as peer:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            done.wait(20)

    async def main(listener: socket.socket) -> None:
        calling = caller(
            resolve=Names(["127.0.0.1"]), tls=ssl.create_default_context(cafile=str(certificate))
        )
        before = open_sockets()
        url = f"https://hooks.test:{listener.getsockname()[1]}/"
        assert (await calling.call(request(url))).succeeded
        async with asyncio.timeout(5):
            while open_sockets() > before + 1:  # the server's own end
                await asyncio.sleep(0.01)
        await calling.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        try:
            uvloop.run(main(listener))
        finally:
            done.set()
            thread.join(5)


# ----------------------------------------------------------------------------------------- concurrency


def test_hanging_targets_hold_up_no_other() -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        hanging = [asyncio.create_task(calling.call(request(sink.url("/hang")))) for _ in range(150)]
        await sink.wait_for(150)  # more than the 100 connections that are aiohttp's default
        assert (await calling.call(request(sink.url("/"), timeout_seconds=1.0))).succeeded
        for task in hanging:
            task.cancel()
        ended = await asyncio.gather(*hanging, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended)

    run(scenario)


def test_after_close_a_call_is_still_an_outcome() -> None:
    async def scenario(sink: Sink, calling: HttpCaller) -> None:
        await calling.call(request(sink.url("/")))
        await calling.close()
        failed(await calling.call(request(sink.url("/"))))

    run(scenario)


# --------------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Env": "prod", "Authorization": "Basic eA==", "Cookie": "a=b", "Content-Type": "text/plain"},
        {"X-Empty": "", "X-Latin": "Müller", "x!#$%&'*+-.^_`|~9": "odd"},
        {f"X-{number}": "" for number in range(50)},
        {"X": "a" * (8192 - 5)},
    ],
)
def test_good_headers_pass(headers: dict[str, str]) -> None:
    check_headers(headers)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"": "a"}, "''"),
        ({"X Y": "a"}, "'X Y'"),
        ({"X:": "a"}, "'X:'"),
        ({"X\r\nY": "a"}, r"'X\\r\\nY'"),
        ({"X\n": "a"}, r"'X\\n'"),
        ({"Ü": "a"}, "'Ü'"),
        ({"X-A": "hidden\r\nX-B: c"}, "X-A contains a line break"),
        ({"X-A": "hidden\n"}, "X-A contains a line break"),
        ({"X-A": "hidden\0"}, "X-A contains a line break"),
        ({"X-A": "hidden\x7f"}, "X-A contains a line break"),
        ({"X-A": "hidden\x85"}, "X-A contains a line break"),
        ({"X-A": "hidden €"}, "X-A contains a character"),
        ({"X-A": "hidden \ud800"}, "X-A contains a character"),
        ({"Host": "hidden"}, "Host is set"),
        ({"content-length": "1"}, "content-length is set"),
        ({"Transfer-Encoding": "chunked"}, "Transfer-Encoding is set"),
        ({"Connection": "close"}, "Connection is set"),
        ({"TE": "trailers"}, "TE is set"),
        ({"Trailer": "X"}, "Trailer is set"),
        ({"Upgrade": "h2c"}, "Upgrade is set"),
        ({"Expect": "100-continue"}, "Expect is set"),
        ({"Proxy-Authorization": "hidden"}, "Proxy-Authorization is set"),
        ({"WEBHOOK-SIGNATURE": "hidden"}, "WEBHOOK-SIGNATURE is set"),
        ({"Idempotency-Key": "hidden"}, "Idempotency-Key is set"),
        ({"Triggerbeat-Attempt": "hidden"}, "Triggerbeat-Attempt is set"),
        ({"User-Agent": "hidden"}, "User-Agent is set"),
        ({"X-A": "1", "x-a": "2"}, "x-a is there twice"),
        ({f"X-{number}": "" for number in range(51)}, "more than 50"),
        ({"X": "a" * (8192 - 4)}, "more than 8,192 bytes"),
    ],
)
def test_bad_headers_are_named_and_their_values_are_not_shown(headers: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        check_headers(headers)
    assert "hidden" not in str(caught.value)


# ----------------------------------------------------------------------------------------- the sink


def test_the_sink_as_a_process_keeps_a_ledger(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.sink", "--port", "0", "--ledger", str(ledger)],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]

        async def deliver() -> list[Outcome]:
            calling = caller()
            urls = [f"http://127.0.0.1:{port}/status/{status}" for status in (200, 503)]
            try:
                return [await calling.call(request(url)) for url in urls]
            finally:
                await calling.close()

        assert [outcome.succeeded for outcome in asyncio.run(deliver())] == [True, False]
        lines = [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]
        assert [line["target"] for line in lines] == ["/status/200", "/status/503"]
        assert lines[0]["headers"]["webhook-id"] == "ev_1"
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.communicate()
