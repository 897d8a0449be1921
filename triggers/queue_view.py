"""What waits in the broker, decoded. It only looks: nothing is taken, moved or acknowledged.

Redis: kombu keeps a list for each queue, newest first, and the hash `unacked` for what workers hold, the
events with an eta among them. RabbitMQ tells how many messages are ready, and no more than that.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from triggers.settings import BACKLOG, OURS, Settings, with_backlogs, without_password

SHOWN = 100  # messages of each kind; totals are exact
TIMEOUT_SECONDS = 2.0
HELD = "unacked"
LONGEST_TEXT = 200  # characters of an argument or of a message that is not ours
MOST_ARGUMENTS = 20

Document = dict[str, Any]


def is_redis(url: str) -> bool:
    """Whether a broker URL is Redis's."""
    return url.startswith(("redis://", "rediss://"))


def queues(settings: Settings, broker_url: str) -> Document:
    """The broker's queues, a backlog's when something waits there, and what workers hold; `error` says why,
    when it cannot be asked.
    """
    names = with_backlogs([OURS, *settings.celery_queues])
    document: Document = {"url": without_password(broker_url), "error": None, "queues": [], "held": None}
    try:
        look = redis_queues if is_redis(broker_url) else amqp_queues
        document |= look(broker_url, names)
        document["queues"] = [
            one for one in document["queues"] if one["waiting"] or not one["name"].endswith(BACKLOG)
        ]
    except broker_errors() as error:
        document["error"] = one_line(error)
    return document


def unreachable(broker_url: str) -> str | None:
    """Why the broker cannot be reached, or None when it can."""
    try:
        if is_redis(broker_url):
            with redis_client(broker_url) as client:
                client.ping()
        else:
            with amqp_connection(broker_url) as connection:
                connection.connect()
    except broker_errors() as error:
        return one_line(error)
    return None


def broker_errors() -> tuple[type[BaseException], ...]:
    """Whatever a broker, its client or the network between may raise."""
    from amqp.exceptions import AMQPError
    from kombu.exceptions import KombuError
    from redis.exceptions import RedisError

    return (RedisError, AMQPError, KombuError, OSError, ValueError)


def one_line(error: BaseException) -> str:
    """An error's type and text."""
    return " ".join(f"{type(error).__name__}: {error}".split())


# -------------------------------------------------------------------------------------------- Redis


def redis_client(url: str) -> Any:
    """A client that gives up soon."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(
        url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


def redis_queues(url: str, names: Iterable[str]) -> Document:
    """Lengths and first messages of the lists, and of the hash of what workers hold."""
    with redis_client(url) as client:
        found = []
        for name in names:
            # Workers take from the right end, so what comes next stands there.
            raw = reversed(client.lrange(name, -SHOWN, -1))
            found.append(
                {"name": name, "waiting": client.llen(name), "messages": [message(one) for one in raw]}
            )
        held = first_of_hash(client, HELD)
        return {
            "queues": found,
            "held": {"count": client.hlen(HELD), "messages": [held_message(value) for value in held]},
        }


def first_of_hash(client: Any, key: str) -> list[bytes]:
    """Some values of a hash that may be large."""
    values: list[bytes] = []
    for _, value in client.hscan_iter(key, count=SHOWN):
        values.append(value)
        if len(values) == SHOWN:
            break
    return values


def held_message(raw: bytes) -> Document:
    """A message in `unacked`: there it stands in a list with its exchange and routing key."""
    with suppress(ValueError, TypeError, LookupError, RecursionError):
        envelope, _, queue = json.loads(raw)[:3]
        return described(envelope) | {"queue": queue if isinstance(queue, str) else None}
    return foreign(raw)


def message(raw: bytes) -> Document:
    """A message in a queue, decoded as far as it is one of Celery's."""
    with suppress(ValueError, TypeError, LookupError, RecursionError):
        return described(json.loads(raw))
    return foreign(raw)


def described(envelope: Any) -> Document:
    """Task, arguments, id and eta of one of kombu's envelopes. Raises ValueError or TypeError for others."""
    headers = envelope["headers"] if isinstance(envelope, dict) else None
    if not isinstance(headers, dict) or not isinstance(headers.get("task"), str):
        raise ValueError("not a task of Celery's")
    args, kwargs = arguments(envelope)
    return {
        "task": headers["task"],
        "id": headers.get("id"),
        "eta": headers.get("eta"),
        "args": args,
        "kwargs": kwargs,
    }


def arguments(envelope: Document) -> tuple[Any, Any]:
    """The arguments in an envelope's body, shortened; as text, when they are not in the form we send."""
    try:
        body = json.loads(base64.b64decode(envelope["body"], validate=True))
        return shortened(body[0]), shortened(body[1])
    except (ValueError, TypeError, LookupError, RecursionError):
        headers = envelope["headers"]
        return shortened(str(headers.get("argsrepr", "?"))), shortened(str(headers.get("kwargsrepr", "?")))


def shortened(value: Any, depth: int = 3) -> Any:
    """A JSON value small enough to look at."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST_TEXT else value[:LONGEST_TEXT] + "..."
    if isinstance(value, list | dict) and depth == 0:
        return "..."
    if isinstance(value, list):
        kept = [shortened(item, depth - 1) for item in value[:MOST_ARGUMENTS]]
        more = len(value) - MOST_ARGUMENTS
        return [*kept, f"... and {more} more"] if more > 0 else kept
    if isinstance(value, dict):
        return {key: shortened(item, depth - 1) for key, item in list(value.items())[:MOST_ARGUMENTS]}
    return value


def foreign(raw: bytes) -> Document:
    """What is not Celery's, as it is."""
    return {"task": None, "raw": shortened(raw.decode("utf-8", "backslashreplace"))}


# ----------------------------------------------------------------------------------------- RabbitMQ


def amqp_connection(url: str) -> Any:
    """A connection that gives up soon."""
    from kombu.connection import Connection

    return Connection(url, connect_timeout=TIMEOUT_SECONDS)


def amqp_queues(url: str, names: Iterable[str]) -> Document:
    """How many messages are ready. Looking at them would take them out, and RabbitMQ keeps to itself which
    are with workers."""
    from amqp.exceptions import NotFound

    found = []
    with amqp_connection(url) as connection:
        for name in names:
            waiting, consumers = 0, 0
            with suppress(NotFound), connection.channel() as channel:  # the error closes the channel
                _, waiting, consumers = channel.queue_declare(name, passive=True)
            found.append({"name": name, "waiting": waiting, "consumers": consumers, "messages": None})
    return {"queues": found, "held": None}
