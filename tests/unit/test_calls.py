"""Who may call next: so many calls in all, so many to one host, and whose turn it is."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from datetime import UTC, datetime
from itertools import count
from typing import cast

import pytest

from triggers import calls
from triggers.calls import PER_HOST, Calls, open_files
from triggers.deliver import Finished
from triggers.outgoing import host_of
from triggers.store.delivery import JOB_TYPES, Call, Job
from triggers.targets import HttpRequest, Outcome
from triggers.targets.http import HttpCaller

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NUMBERS = count()


def call(host: str, name: str = "t") -> Call:
    return Call(str(next(NUMBERS)), NOON, name, f"https://{host}.example/")


def made(monkeypatch: pytest.MonkeyPatch, *, in_flight: int, files: int = 20_480) -> Calls:
    monkeypatch.setattr(calls, "IN_FLIGHT", in_flight)
    monkeypatch.setattr(calls, "open_files", lambda: files)
    return Calls(cast(HttpCaller, None), lambda one: None)


def taken(given: Calls) -> list[Call]:
    """Those that may start, started."""
    found = [call for calls in given._startable.values() for call in calls]
    for some in given._startable.values():
        some.clear()
    return found


def of_hosts(jobs: list[Call]) -> Counter[str]:
    return Counter(host_of(one.url).partition(".")[0] for one in jobs)


def test_room_that_one_host_gives_up_is_taken_by_another_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    given = made(monkeypatch, in_flight=5)
    for one in [call("a") for _ in range(5)] + [call("b") for _ in range(10)]:
        given.admit(one)
    first = taken(given)
    assert of_hosts(first) == {"a": 5, "b": 1}
    given.release(one.id for one in first if host_of(one.url).startswith("a"))
    assert of_hosts(taken(given)) == {"b": 4}


def test_hosts_that_wait_for_room_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    given = made(monkeypatch, in_flight=6)
    for one in [call(name) for name in ("a", "b", "c") for _ in range(60)]:
        given.admit(one)
    running = taken(given)
    assert of_hosts(running) == {"a": 6, "b": 1, "c": 1}
    given.release(one.id for one in running)
    assert of_hosts(taken(given)) == {"a": 2, "b": 2, "c": 2}


def test_what_came_late_leaves_the_turn_to_what_is_on_time_but_for_a_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = made(monkeypatch, in_flight=2_000)
    for _ in range(1_000):
        given.admit(call("a", "noisy"), late=True)
    for _ in range(200):
        given.admit(call("a", "quiet"))
    given.release(one.id for one in taken(given))
    assert Counter(one.name for one in taken(given)) == {"quiet": 90, "noisy": 10}


def test_calls_that_came_late_start_apart_from_those_on_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given = made(monkeypatch, in_flight=2_000)
    for _ in range(PER_HOST + 1):
        given.admit(call("a", "noisy"), late=True)
    given.admit(call("b", "quiet"))

    async def take(late: bool) -> list[Call]:
        return await asyncio.wait_for(given.take(late), 5)

    assert [one.name for one in asyncio.run(take(late=False))] == ["quiet"]
    late = asyncio.run(take(late=True))
    assert Counter(one.name for one in late) == {"noisy": PER_HOST}
    given.release(one.id for one in late)
    assert [one.name for one in asyncio.run(take(late=True))] == ["noisy"]
    assert given.startable == 0


def test_the_first_calls_of_many_hosts_end_at_what_this_process_may_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = made(monkeypatch, in_flight=2_000, files=700)
    for number in range(900):
        given.admit(call(f"h{number}"))
    running = taken(given)
    assert len(running) == (700 - calls.OTHER_FILES) // calls.FILES_A_CALL
    begun = set(of_hosts(running))
    while running:
        given.release(one.id for one in running)
        running = taken(given)
        begun |= set(of_hosts(running))
    assert len(begun) == 900


def test_a_host_with_all_its_calls_in_flight_stands_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    given = made(monkeypatch, in_flight=PER_HOST + 2)
    for one in [call("hangs") for _ in range(PER_HOST + 50)] + [call("other") for _ in range(5)]:
        given.admit(one)
    running = taken(given)
    assert of_hosts(running) == {"hangs": PER_HOST, "other": 2}
    given.release(one.id for one in running[-1:])
    assert of_hosts(taken(given)) == {"other": 1}
    given.release(one.id for one in running[:2])
    assert of_hosts(taken(given)) == {"hangs": 1, "other": 1}


class Asked:
    """A caller that makes no call, and keeps in which order it was asked for them."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    async def call(self, request: HttpRequest) -> Outcome:
        self.urls.append(request.url)
        return Outcome(True)


def won(one: Call) -> Job:
    """The job of a call whose attempt was won."""
    of_call = {
        "id": one.id,
        "scheduled_for": NOON,
        "target": {"method": "POST", "url": one.url, "headers": {}, "body": None},
        "policy": {"timeout_seconds": 30},
        "attempt": 1,
    }
    return Job(**{name: of_call.get(name) for name in JOB_TYPES})  # type: ignore[arg-type]


def test_a_call_does_not_wait_for_the_hundreds_to_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "open_files", lambda: 20_480)
    asked = Asked()
    ended: list[Finished] = []

    async def make_all() -> None:
        given = Calls(cast(HttpCaller, asked), ended.append)
        for one in [*(call(name) for name in ("a", "b", "c") for _ in range(80)), call("quiet")]:
            given.admit(one)
        given.begin([won(one) for one in taken(given)])
        while given.busy:
            await asyncio.sleep(0)

    asyncio.run(make_all())
    assert len(ended) == len(asked.urls) == 241
    assert asked.urls.index("https://quiet.example/") == 3


@pytest.mark.parametrize(
    ("soft", "hard", "found"),
    [
        (1_024, 1_024, 1_024),
        (400, 400, 400),
        (512, 600, 600),
        (1_024, 65_536, 20_480),
        (65_536, 65_536, 20_480),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 20_480),
    ],
)
def test_the_number_of_files_is_what_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, found: int
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: limits.append(given))
    assert open_files() == open_files() == found
