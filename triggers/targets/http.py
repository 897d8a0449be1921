"""HTTP deliveries: one attempt is one request, and ends by its deadline with an `Outcome`, come what may.

What is sent follows Standard Webhooks 1.0.0. The request goes only to addresses that were judged in the
same attempt, and the answer is read only as far as it is kept.
"""

from __future__ import annotations

import asyncio
import codecs
import functools
import importlib.metadata
import json
import logging
import os
import re
import socket
import ssl
from _thread import start_new_thread
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from triggers.errors import InvalidUrl
from triggers.targets import HttpRequest, Outcome
from triggers.targets.address import Address, Url, a_few, is_reachable, parse_url
from triggers.targets.headers import check_headers
from triggers.targets.signing import sign

MAX_ANSWER_BYTES = 2048  # of the body, kept in the event
MAX_ANSWER_HEADERS = 100
MAX_ANSWER_LINE_BYTES = 8190
MAX_RETRY_AFTER_SECONDS = 31_536_000.0
MAX_BUFFERED_BYTES = 4_096  # of a body, which the kernel takes at once, however slow the peer reads
MAX_LOOKUPS = 1_280  # threads that look names up at the same time; they sleep, and take 14 kB each
SLOW_PART = 5  # one in so many is for names whose last look-up was slow
SLOW_SECONDS = 1.0  # from here on it was
MAX_SLOW_NAMES = 10_000  # that are remembered

Resolve = Callable[[str, int], list[str]]

_log = logging.getLogger(__name__)

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?\Z")
_AFTER_HEAD = re.compile(rb"(?<=\r\n\r\n)")


class _Failed(Exception):
    """The attempt failed, for a reason that is already put into words."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(slots=True)
class _Attempt:
    """How far one attempt has come: what is left of it when it is cut off."""

    addresses: list[Address] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)
    lingers: bool = True  # closing its connection may take long
    sent: aiohttp.ClientRequest | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)

    def doing(self) -> str:
        """What the attempt was doing when it was cut off."""
        if not self.addresses:
            return "looking up the name"
        if self.status is not None:
            return "reading the answer"
        return "waiting for the answer" if self.sent and self.sent.response else "connecting"

    def hang_up(self) -> None:
        """Let go of the connection at once.

        Closing alone would wait for a peer that stopped reading to take what is still to be sent, or to say
        farewell, and such peers would use up the process's file descriptors. Where nothing is left to be
        sent this is spared: it is one of some eight system calls for which the loop gives Python's lock away.
        """
        for sock in self.sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


# aiohttp asks for addresses and sockets without saying for which request; the context says it.
_current: ContextVar[_Attempt] = ContextVar("_current")


class HttpCaller:
    """Makes HTTP deliveries, any number at the same time, within one event loop.

    `now` is the wall clock, in seconds of Unix time; `resolve` looks a name up, on a thread, and returns
    its addresses; `tls` replaces the system's certificates. The number of calls at a time is the caller's
    business: nothing waits in line here, but for names, of which `max_lookups` are looked up at a time.
    """

    def __init__(
        self,
        allow_private: bool,
        now: Callable[[], float],
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        max_lookups: int = MAX_LOOKUPS,
    ) -> None:
        self._allow_private = allow_private
        self._now = now
        self._lookups = _Lookups(resolve or _getaddrinfo, min(max_lookups, MAX_LOOKUPS))
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def call(self, request: HttpRequest) -> Outcome:
        """Make one attempt. Nothing but `asyncio.CancelledError` is ever raised.

        Any status of 2xx succeeds once the answer is read, up to the part that is kept; every other status
        fails, redirects too, and 410 says that the target is gone.
        """
        attempt = _Attempt()
        context = _current.set(attempt)
        failure: dict[str, str] | None = None
        try:
            async with asyncio.timeout(request.timeout_seconds):
                await self._perform(request, attempt)
        except Exception as error:
            failure = _explain(error, attempt, request)
        finally:
            if attempt.lingers:
                attempt.hang_up()
            _current.reset(context)
        return _outcome(attempt, failure, self._now())

    async def close(self) -> None:
        """Close what is open. Attempts that still run fail; cancel them first."""
        self._lookups.close()
        if self._session is not None:
            await self._session.close()

    async def _perform(self, request: HttpRequest, attempt: _Attempt) -> None:
        """Resolve, judge, send, read: one request on one new connection."""
        url = parse_url(request.url)
        body = b"" if request.body is None else _encoded(request.body)
        headers = _headers(request, body, int(self._now()))
        attempt.addresses = await self._judged_addresses(url)
        response = await self._open_session().request(
            request.method, yarl.URL(str(url), encoded=True), headers=headers, data=body or None,
            allow_redirects=False,
        )  # fmt: skip
        try:
            attempt.status, attempt.headers = response.status, response.headers
            while len(attempt.body) < MAX_ANSWER_BYTES:
                chunk = await response.content.read(MAX_ANSWER_BYTES - len(attempt.body))
                if not chunk:
                    break
                attempt.body += chunk
        finally:
            response.close()
        # TLS waits for the peer's farewell.
        attempt.lingers = url.scheme != "http" or len(body) > MAX_BUFFERED_BYTES

    async def _judged_addresses(self, url: Url) -> list[Address]:
        """Resolve the host once and return some of its addresses, all of which may be connected to.

        One forbidden answer among good ones refuses them all: no honest name has such a mixture.
        """
        if url.literal is not None:
            addresses: list[Address] = [url.literal]
        else:
            addresses = await self._lookups.addresses(url.host, url.port)
        for address in addresses:
            if not is_reachable(address, self._allow_private):
                raise _Failed("ForbiddenAddress", f"deliveries may not go to {url.host} ({address})")
        return a_few(addresses)

    def _open_session(self) -> aiohttp.ClientSession:
        # Made at the first call, since it belongs to the loop that runs then.
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=_Judged(), use_dns_cache=False, socket_factory=_new_socket,
                ssl=self._tls or True, force_close=True, limit=0,
            )  # fmt: skip
            self._session = aiohttp.ClientSession(
                connector=connector, middlewares=(_send_once,), response_class=_Answer,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("Accept-Encoding", "Content-Type"), auto_decompress=False,
                timeout=aiohttp.ClientTimeout(),  # none of its own: there is one deadline, and it is ours
                trust_env=False, read_bufsize=MAX_ANSWER_BYTES, max_headers=MAX_ANSWER_HEADERS,
                max_line_size=MAX_ANSWER_LINE_BYTES, max_field_size=MAX_ANSWER_LINE_BYTES,
            )  # fmt: skip
        return self._session


class _Answer(aiohttp.ClientResponse):
    """An answer whose head counts whatever follows it.

    aiohttp's parser throws away what it read in the same go as something that must not be there: of a 204
    with a body, which careless targets send, not even the status would be known.
    """

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        receive = protocol.data_received

        def receive_in_parts(data: bytes) -> None:
            for part in _AFTER_HEAD.split(data):
                if protocol.exception() is None:
                    receive(part)

        protocol.data_received = receive_in_parts
        try:
            return await super().start(connection)
        finally:
            del protocol.data_received


class _Judged(AbstractResolver):
    """Hands aiohttp the addresses that were judged, so that it resolves nothing itself."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=str(address), port=port, family=family, proto=0, flags=0)
            for address in _current.get().addresses
        ]

    async def close(self) -> None:
        pass


def _new_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol = address[:3]
    sock = socket.socket(family, kind, protocol)
    _current.get().sockets.append(sock)
    return sock


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a GET, PUT or DELETE again by itself when its connection breaks.

    An attempt is one request: the target would see two with the same attempt number.
    """
    _current.get().sent = request
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        if isinstance(error.__cause__, ssl.SSLError):
            raise error.__cause__ from None
        raise _Failed("ReadError", "the connection broke before there was an answer") from error


def _getaddrinfo(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(answer[4][0]) for answer in found]


class _Lookups:
    """Looks names up on threads of its own, each name once at a time.

    Not on the loop's pool: it is small, and a few names whose servers are silent would fill it and so hold
    up every other delivery. And not on a pool that is waited for when the process ends. Names that were slow
    have threads of their own, so that more of them than there are threads hold up the others once at most.
    """

    def __init__(self, resolve: Resolve, most: int) -> None:
        self._resolve = resolve
        slow = max(1, most // SLOW_PART)
        self._free_for_slow = asyncio.Semaphore(slow)
        self._free = asyncio.Semaphore(max(1, most - slow))
        self._slow: OrderedDict[str, None] = OrderedDict()
        self._running: dict[tuple[str, int], asyncio.Task[list[Address]]] = {}

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Return what the name stands for now, without repetition. Raises `_Failed`."""
        task = self._running.get((host, port))
        if task is None:
            task = asyncio.create_task(self._look_up(host, port))
            self._running[host, port] = task
            task.add_done_callback(functools.partial(self._forget, (host, port)))
        # Shielded: others may be waiting for the same lookup when this attempt is cut off.
        return await asyncio.shield(task)

    def close(self) -> None:
        for task in self._running.values():
            task.cancel()

    def _forget(self, key: tuple[str, int], task: asyncio.Task[list[Address]]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen, even when everyone who waited has gone

    async def _look_up(self, host: str, port: int) -> list[Address]:
        async with self._free_for_slow if host in self._slow else self._free:
            loop = asyncio.get_running_loop()
            began = loop.time()
            answer: asyncio.Future[list[str]] = loop.create_future()
            try:
                # `threading` would wait until the thread runs, which among busy ones is milliseconds.
                start_new_thread(_answer, (loop, answer, self._resolve, host, port))
                addresses = [ip_address(text) for text in dict.fromkeys(await answer)]
            except Exception as error:
                reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
                raise _Failed("ResolveError", f"the name {host} cannot be resolved: {reason}") from error
            finally:
                self._remember(host, slow=loop.time() - began > SLOW_SECONDS)
        if not addresses:
            raise _Failed("ResolveError", f"the name {host} has no address")
        return addresses

    def _remember(self, host: str, slow: bool) -> None:
        self._slow.pop(host, None)
        if slow:
            self._slow[host] = None
            if len(self._slow) > MAX_SLOW_NAMES:
                self._slow.popitem(last=False)


def _answer(
    loop: asyncio.AbstractEventLoop, answer: asyncio.Future[list[str]], resolve: Resolve, host: str, port: int
) -> None:
    """Resolve, on a thread, and give the result to the loop, if it is still there to take it."""
    settle: Callable[[], None]
    try:
        settle = functools.partial(answer.set_result, resolve(host, port))
    except Exception as error:
        settle = functools.partial(answer.set_exception, error)
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(lambda: None if answer.done() else settle())


def _encoded(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _headers(request: HttpRequest, body: bytes, timestamp: int) -> dict[str, str]:
    """Return the headers of an attempt: the user's, checked again, and then ours."""
    try:
        check_headers(request.headers)
    except ValueError as error:
        raise _Failed("InvalidHeaders", str(error)) from None
    headers = dict(request.headers)
    if body and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = "application/json"
    headers["User-Agent"] = _user_agent()
    headers["Idempotency-Key"] = request.event_id
    headers["Triggerbeat-Scheduled-For"] = request.scheduled_for.astimezone(UTC).isoformat()[:-6] + "Z"
    headers["Triggerbeat-Attempt"] = str(request.attempt)
    headers["webhook-id"] = request.event_id
    headers["webhook-timestamp"] = str(timestamp)
    if request.secret:
        try:
            headers["webhook-signature"] = sign(request.secret, request.event_id, timestamp, body)
        except ValueError as error:
            raise _Failed("InvalidSecret", str(error)) from None
    return headers


@functools.cache
def _user_agent() -> str:
    try:
        return f"triggerbeat/{importlib.metadata.version('triggerbeat')}"
    except importlib.metadata.PackageNotFoundError:
        return "triggerbeat/0"


def _outcome(attempt: _Attempt, failure: dict[str, str] | None, now: float) -> Outcome:
    """Say what came of an attempt; `now` is in seconds of Unix time.

    A status that fails is the news, even if the rest of the answer was cut off. One that succeeds is not
    believed until the answer has come.
    """
    status = attempt.status
    if status is None:
        return Outcome(succeeded=False, error=failure)
    result = {"status": status, "body": _text(attempt.body)}
    if 200 <= status <= 299:
        return Outcome(succeeded=failure is None, result=result, error=failure)
    return Outcome(
        succeeded=False,
        result=result,
        error={"type": "HttpStatus", "message": _status_message(status, attempt.headers)},
        retry_after=_retry_after(attempt.headers, now),
        gone=status == HTTPStatus.GONE,
    )


def _text(body: bytearray) -> str:
    # A character that was cut in two at the end is dropped. PostgreSQL takes no NUL in a text.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(bytes(body), final=len(body) < MAX_ANSWER_BYTES)
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _status_message(status: int, headers: Mapping[str, str]) -> str:
    name = f"{status} {_PHRASES.get(status, '')}".rstrip()
    if not 300 <= status <= 399:
        return f"the target answered {name}"
    where = re.sub(r"[^ -~]", "?", headers.get("Location", ""))[:200]
    return f"the target answered {name}; redirects are not followed" + (f" (to {where})" if where else "")


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the wait in seconds that the target asks for (RFC 9110, section 10.2.3), or None.

    A date counts from the answer's own Date, so that a clock that is off over there does no harm.
    """
    text = headers.get("Retry-After", "").strip()
    if _SECONDS.match(text):
        return min(float(text), MAX_RETRY_AFTER_SECONDS)
    until = _http_date(text)
    if until is None:
        return None
    sent = _http_date(headers.get("Date", ""))
    return min(max(until - (now if sent is None else sent), 0.0), MAX_RETRY_AFTER_SECONDS)


def _http_date(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _explain(error: Exception, attempt: _Attempt, request: HttpRequest) -> dict[str, str]:
    """Put into words why there is no complete answer. Texts of libraries are left out: they may quote us."""
    kind, message = _reason(error, attempt, request)
    if kind == "Unexpected":
        _log.error("An HTTP attempt at event %s failed unexpectedly", request.event_id, exc_info=error)
    return {"type": kind, "message": message}


def _reason(error: Exception, attempt: _Attempt, request: HttpRequest) -> tuple[str, str]:
    match error:
        case _Failed():
            return error.kind, str(error)
        case InvalidUrl():
            return "InvalidUrl", str(error)
        case aiohttp.ClientConnectorCertificateError():
            cause = error.certificate_error
            return "TlsError", f"the certificate is not valid: {getattr(cause, 'verify_message', 'mismatch')}"
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            reason = getattr(error, "os_error", error).reason or "handshake failed"
            return "TlsError", f"no secure connection: {reason}"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno
            reason = os.strerror(number) if number else "no address answers"
            return "ConnectError", f"cannot connect: {reason}"
        case TimeoutError():
            return "Timeout", f"no answer within {request.timeout_seconds:g} s: still {attempt.doing()}"
        case aiohttp.ClientResponseError():
            return "InvalidAnswer", "the answer is not valid HTTP, or its headers are too many or too long"
        case aiohttp.ClientError() | OSError():
            where = "before there was an answer" if attempt.status is None else "in the middle of the answer"
            return "ReadError", f"the connection broke {where}"
        case _:
            return "Unexpected", f"the attempt failed with {type(error).__name__}"
