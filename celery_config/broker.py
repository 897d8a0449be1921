"""How we speak to Redis and RabbitMQ: queues, time limits on sockets, what a message may be."""

from __future__ import annotations

from typing import Any

import kombu
from celery.app.amqp import AMQP
from kombu import Exchange, Queue

from celery_config import rabbitmq_transport, redis_transport
from triggers.settings import BACKLOG, OURS, Settings

redis_transport.install()
rabbitmq_transport.install()

# Without it kombu tries for ever to open a channel for a publish, whatever the publish itself allows.
ONE_TRY = {"max_retries": 1, "interval_start": 0.2, "interval_step": 0, "interval_max": 0.2}
SOCKET_SECONDS = 5  # after this a silent connection counts as broken
# With Redis earlier: a loop that finds it silent asks over several connections in turn, and waits on each.
REDIS_SECONDS = 3
AGAIN_SECONDS = 2.0  # between two tries to connect
PREFIX = "celery_config.celery_worker."  # the names of our own tasks begin with it


class Connection(kombu.Connection):
    """Tries to connect every two seconds. The stock one waits longer each time, in the end for half a minute,
    and for so long a worker would do nothing after its broker is back.
    """

    def ensure_connection(self, *args: Any, **more: Any) -> Any:
        """Wait until the broker can be reached."""
        pauses = {"interval_start": AGAIN_SECONDS, "interval_step": 0, "interval_max": AGAIN_SECONDS}
        return super().ensure_connection(*args, **(pauses | more))  # type: ignore[no-untyped-call]


class Amqp(AMQP):
    """What makes the app's connections."""

    Connection = Connection


def options(settings: Settings) -> dict[str, Any]:
    """Celery's settings that depend on the broker."""
    rabbitmq = settings.celery_broker_url.startswith("amqp")
    return {
        "broker_url": settings.celery_broker_url,
        "result_backend": settings.celery_result_backend,
        "task_ignore_result": settings.celery_result_backend is None,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # a broker that is away for an hour comes back all the same
        # A Redis that refuses writes, as in a failover, is one that is away. RabbitMQ refuses for good.
        "broker_channel_error_retry": not rabbitmq,
        "broker_connection_timeout": SOCKET_SECONDS,
        "broker_heartbeat": SOCKET_SECONDS,  # RabbitMQ and the worker give up after two or three
        "broker_transport_options": ONE_TRY | (rabbitmq_options() if rabbitmq else redis_options()),
        "redis_socket_timeout": REDIS_SECONDS,
        "redis_socket_connect_timeout": REDIS_SECONDS,
        "redis_socket_keepalive": True,
        "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0.2, "interval_max": 0.2},
        "task_default_queue": OURS,
        "task_queues": queues(settings),
        "task_routes": (route_to(settings.celery_queues[0]),),
        **(
            {"task_default_queue_type": "quorum", "task_default_exchange_type": "topic"}
            if quorum(settings)
            else {}
        ),
    }


def quorum(settings: Settings) -> bool:
    """Whether the queues are RabbitMQ's replicated ones."""
    return settings.celery_queue_type == "quorum"


def redis_options() -> dict[str, Any]:
    """A connection that went silent is noticed within seconds instead of never."""
    return {
        "socket_timeout": REDIS_SECONDS,
        "socket_connect_timeout": REDIS_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": REDIS_SECONDS,
    }


def rabbitmq_options() -> dict[str, Any]:
    """A publish is done when RabbitMQ says so; `rabbitmq_transport` gives up when it says nothing."""
    return {
        "confirm_publish": True,
        "write_timeout": SOCKET_SECONDS,
    }


def queues(settings: Settings) -> list[Queue]:
    """Ours, and those of the users' tasks."""
    if not quorum(settings):
        return [classic(name) for name in (OURS, *settings.celery_queues)]
    # A topic exchange: with a direct one Celery cannot set up its delayed delivery on quorum queues.
    return [
        Queue(
            name, Exchange(name, type="topic"), routing_key=name, queue_arguments={"x-queue-type": "quorum"}
        )
        for name in (OURS, *settings.celery_queues)
    ]


def classic(name: str) -> Queue:
    """A queue with an exchange of its own."""
    return Queue(name, Exchange(name), routing_key=name)


def backlog(queue: str) -> Queue:
    """The queue beside another, of what lets the others go first. Celery does not know it: who takes from it
    is for our part of the worker to say. Never a quorum queue: what it loses a tick sends again.
    """
    return classic(queue + BACKLOG)


def addressed(name: str) -> Queue | str:
    """What to send to, for a queue of this name: Celery knows the others by their names."""
    return classic(name) if name.endswith(BACKLOG) else name


def is_backlog(message: Any) -> bool:
    """Whether a message, or the request that came of it, has come from such a queue."""
    return str((message.delivery_info or {}).get("routing_key")).endswith(BACKLOG)


def route_to(queue: str) -> Any:
    """A router: our own tasks to our queue, everybody else's to `queue`, so that none holds up a tick."""

    def route(
        name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **more: Any
    ) -> dict[str, str]:
        return {"queue": OURS if name.startswith(PREFIX) else queue}

    return route
