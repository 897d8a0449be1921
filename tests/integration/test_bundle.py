"""Users' tasks in bundles: what is published, on Redis and RabbitMQ, and what a worker makes of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import InvalidTaskError
from celery.worker import state
from kombu import Message
from kombu.utils.limits import TokenBucket

from celery_config import bundle, dispatch, engine
from celery_config.broker import backlog, classic
from celery_config.bundle import Bundle, Packed, Unpacker
from celery_config.dispatch import ENOUGH_TASKS, MANY, NAMED, packed, publish_tasks
from tests.integration import test_dispatch, test_guard
from tests.processes import wait_until
from triggers.settings import BACKLOG
from triggers.store.delivery import Job

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
QUEUES = test_dispatch.TASKS

app = test_dispatch.app


def job(number: int, task: str = "users.task", queue: str | None = None) -> Job:
    """An event of a user's task, as the courier publishes it."""
    return Job(
        id=f"01a1f892-3393-73c0-949a-{number:012x}",
        trigger_id=f"01a1f892-3393-73c0-949b-{number:012x}",
        scheduled_for=NOON,
        fire_at=NOON,
        due_at=NOON,
        misfire_at=None,
        source="schedule",
        attempt=0,
        payload=None,
        started_at=None,
        name=f"trigger-{number}",
        target_type="celery",
        target={"task": task, "queue": queue, "args": [number, "{{trigger_name}}"], "kwargs": {"a": 1}},
        secret=None,
        retry={},
        policy={"timeout_seconds": 30},
        consecutive_failures=0,
        exhausted=False,
    )


def messages(app: Celery, queue: str) -> list[Message]:
    """All that waits in a queue, which is empty then."""
    found: list[Message] = []
    with app.connection_for_read() as connection:
        found_queue = classic(queue) if queue.endswith(BACKLOG) else app.amqp.queues[queue]
        bound = found_queue(connection.default_channel)
        bound.declare()
        while (message := bound.get(no_ack=True, accept=["json"])) is not None:
            found.append(message)
    return found


# ------------------------------------------------------------------------------------------ published


def test_few_tasks_go_out_one_by_one_in_their_order(app: Celery) -> None:
    jobs = [job(number, task=f"users.task{number % 3}") for number in range(NAMED)]
    messages(app, "tasks")
    publish_tasks(app, jobs, "tasks")
    found = messages(app, "tasks")
    assert [message.headers["id"] for message in found] == [job.id for job in jobs]
    assert [message.headers["task"] for message in found] == [job.target["task"] for job in jobs]
    assert found[1].payload[:2] == [[1, "trigger-1"], {"a": 1}]
    assert found[1].headers["timelimit"] == [40, None]
    assert found[1].headers["triggerbeat_event"] is True


def test_many_tasks_go_out_as_bundles_of_one_task_and_one_queue(app: Celery) -> None:
    for queue in QUEUES:
        messages(app, queue)
    jobs = [job(number) for number in range(40)]
    jobs += [job(100, task="users.other"), *[job(200 + number, queue="more") for number in range(40)]]
    publish_tasks(app, jobs, "tasks")
    found = {queue: messages(app, queue) for queue in QUEUES}
    sizes = {
        queue: [len(message.payload[0][1]) for message in of_queue if message.headers["task"] == bundle.TASK]
        for queue, of_queue in found.items()
    }
    assert sizes == {"tasks": [16, 16, 8], "more": [16, 16, 8]}
    (alone,) = [message for message in found["tasks"] if message.headers["task"] != bundle.TASK]
    assert (alone.headers["task"], alone.headers["id"]) == ("users.other", jobs[40].id)
    name, packed = found["more"][2].payload[0]
    assert name == "users.task"
    assert packed[7] == [jobs[-1].id, 40, [239, "trigger-239"], {"a": 1}]
    assert jobs[0].id in found["tasks"][0].headers["argsrepr"], "for who looks at the queue"


@pytest.mark.parametrize("late", [True, False])
def test_those_of_a_trigger_with_many_and_late_ones_go_to_the_backlog_of_their_queue(
    app: Celery, late: bool
) -> None:
    of_one = [replace(job(number), trigger_id=job(0).trigger_id) for number in range(MANY + 1)]
    many = [job(number) for number in range(NAMED + bundle.MOST)] if late else of_one
    publish_tasks(app, many, "tasks", late)
    on_time = job(500)
    publish_tasks(app, [on_time], "tasks")
    assert [one.headers["id"] for one in messages(app, "tasks")] == [on_time.id]
    behind = messages(app, "tasks.backlog")
    assert behind
    if late:
        assert sum(len(one.payload[0][1]) for one in behind) == len(many)
    else:
        assert [one.headers["id"] for one in behind] == [one.id for one in many]


def enough_waits(app: Celery) -> None:
    """So many tasks in the backlog that late ones are not sent there; RabbitMQ counts them a moment later."""
    for number in range(ENOUGH_TASKS):
        bundle.send(app, "users.task", [packed(job(number))], {"queue": backlog("tasks")})
    with app.pool.acquire(block=True) as connection:
        wait_until(lambda: dispatch.waiting(connection, "tasks.backlog") == ENOUGH_TASKS)


def test_late_ones_wait_until_workers_have_taken_what_was_sent(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for ever: there may be no worker for this queue."""
    enough_waits(app)
    monkeypatch.setattr(dispatch, "PATIENCE_SECONDS", 60)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(publish_tasks, app, [job(100)], "tasks", True)
        publish_tasks(app, [job(101)], "tasks")  # which is on time
        assert len(messages(app, "tasks")) == 1
        assert not sending.done()
        found = messages(app, "tasks.backlog")
        sending.result(20)
    found += messages(app, "tasks.backlog")
    assert len(found) == ENOUGH_TASKS + 1
    monkeypatch.setattr(dispatch, "PATIENCE_SECONDS", 0.05)
    enough_waits(app)
    publish_tasks(app, [job(100)], "tasks", late=True)
    assert job(100).id in {message.headers["id"] for message in messages(app, "tasks.backlog")}


# ------------------------------------------------------------------------------------------- taken apart


class Consumer:
    """What the unpacker uses of Celery's consumer: the pool takes all, and begins when it is told to."""

    def __init__(self, processes: int = 2) -> None:
        self.app = Celery("tests", set_as_current=False)
        self.pool = SimpleNamespace(num_processes=processes)
        self.timer = SimpleNamespace(call_after=lambda seconds, call, args: self.timers.append((call, args)))
        self.timers: list[tuple[Callable[..., Any], Any]] = []
        self.handed: list[Message] = []
        self.unknown = False
        self.connection_errors = ()
        self.task_buckets: dict[str, Any] = {}
        self.controller = SimpleNamespace(autoscaler=None, max_concurrency=8)

    def create_task_handler(self) -> Callable[[Message], None]:
        return self.handle

    def handle(self, message: Message) -> None:
        self.handed.append(message)
        if self.unknown:
            message.reject_log_error(None, ())

    def call_soon(self, call: Callable[..., Any], *args: Any) -> None:
        call(*args)

    def begin(self, index: int) -> None:
        """A pool process takes the task."""
        self.handed[index].ack_log_error(None, ())

    def ids(self) -> list[str]:
        return [message.headers["id"] for message in self.handed]

    def later(self) -> None:
        """The time is up."""
        timers, self.timers = self.timers, []
        for call, args in timers:
            call(*args)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the tasks that were sent again."""
    sent: list[str] = []
    monkeypatch.setattr(bundle, "send_alone", lambda app, tasks: sent.extend(one.id for _, one, _ in tasks))
    return sent


def tasks(count: int, first: int = 0) -> list[Packed]:
    return [Packed(f"id-{number}", 40, [number], {}) for number in range(first, first + count)]


def taken(count: int, processes: int = 2, unknown: bool = False) -> tuple[Consumer, Unpacker, Counter[str]]:
    """A worker that has just taken a bundle; what was acknowledged."""
    consumer, unpacker = Consumer(processes), Unpacker()
    consumer.unknown = unknown
    unpacker.start(consumer)
    done: Counter[str] = Counter()
    take(unpacker, done, "first", tasks(count))
    return consumer, unpacker, done


def take(unpacker: Unpacker, done: Counter[str], which: str, packed: list[Packed]) -> None:
    message = Message(delivery_info={"exchange": "tasks", "routing_key": "tasks"}, headers={"origin": "o"})
    unpacker.take("users.task", packed, Bundle(message, len(packed), lambda: done.update([which])))


def test_a_worker_hands_on_what_its_pool_has_room_for_and_the_next_when_one_begins() -> None:
    consumer, _, done = taken(5)
    assert consumer.ids() == ["id-0", "id-1"]
    consumer.begin(1)
    assert consumer.ids() == ["id-0", "id-1", "id-2"]
    for index in (0, 2, 3):
        consumer.begin(index)
    assert not done
    consumer.begin(4)
    assert consumer.ids() == [f"id-{number}" for number in range(5)]
    assert done == {"first": 1}, "acknowledged when all of it has begun"


def of_backlog(headers: dict[str, Any] | None = None, **parts: Any) -> Message:
    """A message out of the backlog of a queue."""
    where = {"exchange": "tasks.backlog", "routing_key": "tasks.backlog"}
    return Message(delivery_info=where, headers=headers or {}, **parts)


def on_time() -> Message:
    """A message out of the queue itself."""
    return Message(delivery_info={"exchange": "tasks", "routing_key": "tasks"}, headers={})


@pytest.fixture(autouse=True)
def no_requests() -> Iterator[None]:
    """Celery has them for the whole process."""
    yield
    state.requests.clear()
    state.active_requests.clear()


class Request:
    """What Celery's worker has of a task that came in this message."""

    def __init__(self, message: Message) -> None:
        self.id = message.headers["id"]
        self.name = message.headers["task"]
        self.message = message


class Pool:
    """As Celery's: has what it is given, until it is told to end it."""

    def __init__(self, unpacker: Unpacker) -> None:
        self.given: list[dict[str, Any]] = []
        self.heard = engine.Heard(self, unpacker, lambda call, *args: call(*args))

    def take(self, message: Message) -> None:
        """Run what came in this message."""
        request = Request(message)
        state.task_reserved(request)
        self.heard.apply_async(
            "target",
            callback=lambda value: state.task_ready(request),
            error_callback=lambda error: state.task_ready(request),
            correlation_id=request.id,
        )

    def apply_async(self, *args: Any, **options: Any) -> None:
        self.given.append(options)

    def end(self, index: int, how: str = "callback") -> None:
        """A task ends."""
        self.given[index][how]("result")


def with_pool(processes: int) -> tuple[Consumer, Unpacker, Pool]:
    """A worker whose pool takes what it is given."""
    consumer, unpacker = Consumer(processes), Unpacker()
    unpacker.start(consumer)
    pool = Pool(unpacker)
    handle = unpacker.handle

    def taken_by_pool(message: Message) -> None:
        handle(message)
        pool.take(message)

    unpacker.handle = taken_by_pool
    return consumer, unpacker, pool


def take_backlog(unpacker: Unpacker, done: Counter[str], count: int) -> None:
    unpacker.take("users.task", tasks(count), Bundle(of_backlog(), count, lambda: done.update(["done"])))


@pytest.mark.parametrize("how", ["callback", "error_callback"])
def test_of_a_backlog_none_waits_in_the_pool(how: str) -> None:
    """Who comes waits for those that are there; and however one ends, the next one begins."""
    consumer, unpacker, pool = with_pool(2)
    done: Counter[str] = Counter()
    take_backlog(unpacker, done, 4)
    assert consumer.ids() == ["id-0", "id-1"]
    pool.end(0, how)
    assert consumer.ids() == ["id-0", "id-1", "id-2"]
    assert not done
    pool.end(1, how)
    assert done == {"done": 1}, (
        "acknowledged when all of it is in the pool, or a slow one would hold up others"
    )
    assert not unpacker.ahead
    for index in (2, 3):
        pool.end(index, how)
    assert not unpacker.pooled


@pytest.mark.parametrize(("processes", "share"), [(1, 1), (2, 1), (5, 2)])
def test_while_others_come_a_backlog_has_half_of_the_pool(processes: int, share: int) -> None:
    consumer, unpacker, pool = with_pool(processes)
    assert unpacker.begins(on_time())
    take_backlog(unpacker, Counter(), share + 1)
    assert consumer.ids() == [f"id-{number}" for number in range(share)]
    take(unpacker, Counter(), "on time", tasks(1, first=10))
    assert consumer.ids()[-1] == "id-10", "those on time do not wait behind what waits"
    pool.end(share)
    assert len(consumer.ids()) == share + 1
    pool.end(0)
    assert consumer.ids()[-1] == f"id-{share}"


def test_a_backlog_has_all_of_the_pool_when_nobody_else_comes() -> None:
    consumer, unpacker, _ = with_pool(2)
    unpacker.begins(on_time())
    unpacker.others_came -= bundle.OTHERS_SECONDS
    take_backlog(unpacker, Counter(), 3)
    assert consumer.ids() == ["id-0", "id-1"]


def test_others_that_the_pool_has_leave_a_backlog_no_room() -> None:
    consumer, unpacker, pool = with_pool(2)
    unpacker.take("users.task", tasks(2, first=10), Bundle(on_time(), 2, lambda: None))
    take_backlog(unpacker, Counter(), 1)
    assert consumer.ids() == ["id-10", "id-11"]
    pool.end(1)
    assert consumer.ids()[-1] == "id-0"


def test_a_task_whose_rate_is_limited_lets_other_tasks_begin(alone: list[str]) -> None:
    """Celery keeps one, and no second one of the name is given to it."""
    consumer, unpacker, _ = with_pool(4)
    bucket = consumer.task_buckets["users.task"] = TokenBucket(1)
    to_pool = unpacker.handle

    def kept(message: Message) -> None:
        consumer.handle(message)
        bucket.add(message)

    unpacker.handle = kept
    take_backlog(unpacker, Counter(), 3)
    assert consumer.ids() == ["id-0"]
    unpacker.handle = to_pool
    unpacker.take("users.other", tasks(2, first=10), Bundle(of_backlog(), 2, lambda: None))
    unpacker.waiting[True].rotate(2)  # as when the others have gone back
    unpacker.feed()
    assert consumer.ids() == ["id-0", "id-10", "id-11"]
    unpacker.stop()
    wait_until(lambda: len(alone) == 3, 10, lambda: str(alone))
    assert sorted(alone) == ["id-0", "id-1", "id-2"], "what Celery keeps would be lost with the worker"


def test_what_celery_has_no_room_for_is_one_of_a_name() -> None:
    """And is given all the same where that makes the pool grow."""
    consumer, unpacker, _ = with_pool(1)
    to_pool = unpacker.handle
    take_backlog(unpacker, Counter(), 4)
    assert consumer.ids() == ["id-0"]
    consumer.controller.autoscaler = object()

    def kept(message: Message) -> None:
        consumer.handle(message)
        state.task_reserved(Request(message))

    unpacker.handle = kept
    unpacker.feed()
    assert consumer.ids() == ["id-0", "id-1"]
    state.requests.pop("id-1")  # it was revoked, say
    unpacker.handle = to_pool
    unpacker.feed()
    assert consumer.ids()[2] == "id-2"


def test_what_cannot_be_handed_on_is_settled_and_the_others_follow() -> None:
    consumer, unpacker, _ = with_pool(2)

    def broken(message: Message) -> None:
        consumer.handle(message)
        raise OSError("the result backend is away")

    unpacker.handle = broken
    done: Counter[str] = Counter()
    take_backlog(unpacker, done, 3)
    take(unpacker, done, "on time", tasks(2, first=10))
    assert consumer.ids() == ["id-0", "id-1", "id-2", "id-10", "id-11"]
    assert done == {"done": 1, "on time": 1}
    assert not unpacker.given


def test_a_worker_that_ends_takes_no_more(alone: list[str]) -> None:
    consumer, unpacker, done = taken(1)
    unpacker.stop()
    take(unpacker, done, "second", tasks(1, first=10))
    consumer.later()
    assert consumer.ids() == ["id-0"]
    assert not unpacker.all_waiting()
    assert not done, "it is another worker's"


def test_after_a_lost_connection_the_pool_has_what_runs(alone: list[str]) -> None:
    """Celery dropped what had not begun, without a word to anybody."""
    consumer, unpacker, _ = with_pool(2)
    take_backlog(unpacker, Counter(), 2)
    assert unpacker.pooled == {"id-0", "id-1"}
    request = Request(consumer.handed[0])
    state.task_accepted(request)
    unpacker.start(consumer)
    assert unpacker.pooled == {"id-0"}
    wait_until(lambda: alone == ["id-1"], 10, lambda: str(alone))
    state.task_ready(request)


def test_a_task_that_is_acknowledged_at_its_end_has_begun_all_the_same() -> None:
    consumer, _, done = taken(1)
    message = consumer.handed[0]
    assert isinstance(message, bundle.Unpacked)
    message.begun()
    assert done == {"first": 1}
    consumer.begin(0)
    assert done == {"first": 1}


def alone_in_a_message(**headers: Any) -> Message:
    body = json.dumps([[1], {"a": 2}, {}])
    known = {"id": "id-0", "task": "users.task", "timelimit": [40, None]} | headers
    channel = SimpleNamespace(basic_ack=lambda *args, **options: None, no_ack_consumers=None)
    parts = {"content_type": "application/json", "content_encoding": "utf-8", "channel": channel}
    return of_backlog(known, body=body, **parts)


def test_a_task_of_a_backlog_that_comes_alone_waits_as_one_of_a_bundle() -> None:
    consumer, unpacker = Consumer(), Unpacker()
    unpacker.start(consumer)
    assert not unpacker.begins(alone_in_a_message(triggerbeat_event=True))
    (message,) = consumer.handed
    assert (message.payload[0], message.payload[1]) == ([1], {"a": 2})
    assert (message.headers["id"], message.headers["task"]) == ("id-0", "users.task")
    assert unpacker.begins(message), "when its turn has come"
    assert unpacker.others_came == float("-inf")


def test_what_is_no_event_is_refused_in_a_backlog() -> None:
    """With an eta it would be in everybody's way for as long."""
    unpacker = Unpacker()
    unpacker.start(Consumer())
    with pytest.raises(ValueError, match="events only"):
        unpacker.begins(alone_in_a_message())


def test_a_larger_pool_has_more_of_them(alone: list[str]) -> None:
    assert len(taken(9, processes=6)[0].handed) == 6
    assert len(taken(9, processes=1)[0].handed) == 2


def test_what_is_sent_again_stays_in_the_backlog() -> None:
    consumer, unpacker = Consumer(), Unpacker()
    unpacker.start(consumer)
    taken_bundle = Bundle(of_backlog(), 3, lambda: None)
    unpacker.take("users.task", tasks(3), taken_bundle)
    wanted = {"queue": backlog("tasks")}
    assert taken_bundle.back == wanted
    assert bundle.where_from(consumer.handed[0]) == wanted


def test_what_has_no_room_in_a_moment_goes_back_one_by_one(alone: list[str]) -> None:
    consumer, unpacker, done = taken(5)
    take(unpacker, done, "second", tasks(3, first=10))
    consumer.begin(0)
    consumer.later()
    wait_until(lambda: len(alone) == 5, 10, lambda: str(alone))
    assert sorted(alone) == ["id-10", "id-11", "id-12", "id-3", "id-4"]
    assert done == {"second": 1}
    consumer.begin(1)
    consumer.begin(2)
    assert done == {"first": 1, "second": 1}
    assert consumer.ids() == ["id-0", "id-1", "id-2"], "what went back is not begun here, too"


def test_what_has_begun_in_time_does_not_go_back(alone: list[str]) -> None:
    consumer, _, done = taken(3)
    for index in range(3):
        consumer.begin(index)
    consumer.later()
    assert done == {"first": 1}
    assert alone == []


def test_after_a_lost_connection_what_celery_dropped_goes_back(alone: list[str]) -> None:
    consumer, unpacker, done = taken(5)
    consumer.begin(0)
    unpacker.start(consumer)
    wait_until(lambda: len(alone) == 4, 10, lambda: str(alone))
    assert alone == ["id-1", "id-2", "id-3", "id-4"]
    consumer.begin(1)  # it was in the pool all the same
    consumer.later()
    assert not done, "its channel is gone"
    take(unpacker, done, "second", tasks(2, first=10))
    assert consumer.ids()[-2:] == ["id-10", "id-11"], "and there is room as before"


def test_tasks_that_nobody_knows_here_are_all_refused() -> None:
    consumer, unpacker, done = taken(16, unknown=True)
    assert len(consumer.handed) == 16
    assert done == {"first": 1}
    assert not unpacker.ahead


def test_a_worker_that_ends_hands_back_what_it_has_not_handed_on(alone: list[str]) -> None:
    _, unpacker, done = taken(5)
    take(unpacker, done, "second", tasks(1, first=10))
    unpacker.stop()
    wait_until(lambda: len(alone) == 4, 10, lambda: str(alone))
    assert sorted(alone) == ["id-10", "id-2", "id-3", "id-4"]
    assert done == {"second": 1}


def test_an_id_that_comes_twice_is_settled_twice() -> None:
    consumer, unpacker, done = taken(1, processes=3)
    take(unpacker, done, "second", tasks(1) * 2)
    for index in range(3):
        consumer.begin(index)
    assert done == {"first": 1, "second": 1}
    assert not unpacker.ahead


def test_a_task_out_of_a_bundle_is_as_if_it_had_come_alone() -> None:
    consumer, _, _ = taken(1)
    message = consumer.handed[0]
    expected = consumer.app.amqp.as_task_v2("id-0", "users.task", [0], {}, time_limit=40, origin="o")
    assert message.headers == expected.headers | {"triggerbeat_event": True}
    assert json.loads(message.body) == json.loads(json.dumps(expected.body))
    assert message.delivery_info == {"exchange": "tasks", "routing_key": "tasks"}
    assert message.payload[0] == [0]


def nested(levels: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(levels):
        made = [made]
    return made


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        [[], {}, {}],
        [["name"], {}, {}],
        [["name", 3], {}, {}],
        [["name", [["id"]]], {}, {}],
        [[["name"], [["id", 40, [], {}]]], {}, {}],
        [["name", [["id", 40, [], {}], [["id"], 40, [], {}]]], {}, {}],
        [["name", [["id", None, [], {}]]], {}, {}],
        [["name", [["id", 40, {}, {}]]], {}, {}],
        [["name", [["id", 40, [], []]]], {}, {}],
        [["name", []], {}, {}],
        [["name", [["id", 40, [], {}]] * 17], {}, {}],
        [["name", [["id", 10**400, [], {}]]], {}, {}],
        [["name", [["id", -1, [], {}]]], {}, {}],
        [["name", [["id", 40, nested(200), {}]]], {}, {}],
    ],
)
def test_a_malformed_bundle_is_refused(body: Any) -> None:
    with pytest.raises(InvalidTaskError, match=r"malformed message: (Type|Value)Error"):
        opened(body)


def test_a_bundle_is_handed_to_the_unpacker() -> None:
    (name, tasks, _bundle), *more = opened([["name", [["id", 40, [1], {"a": 2}]]], {}, {}])
    assert (name, tasks) == ("name", [Packed("id", 40, [1], {"a": 2})])
    assert not more


def opened(body: Any) -> list[tuple[Any, ...]]:
    """With what a worker's unpacker is called for such a message."""
    taken: list[tuple[Any, ...]] = []
    unpacker = SimpleNamespace(take=lambda *arguments: taken.append(arguments), bundle=lambda *_: None)
    consumer = SimpleNamespace(controller=SimpleNamespace(unpacker=unpacker), connection_errors=())
    bundle.strategy(None, None, consumer)(test_guard.message(json.dumps(body)), None, None, None, [])
    return taken
