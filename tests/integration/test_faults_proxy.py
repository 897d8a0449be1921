"""The proxy of `tests.faults` does to connections what it says."""

from __future__ import annotations

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.faults.proxy import Proxy
from tests.processes import wait_until
from tests.servers import Valkey


def client(proxy: Proxy) -> redis.Redis:
    """One that gives up soon, and never tries again by itself."""
    return redis.Redis(
        port=proxy.port, socket_timeout=0.5, single_connection_client=True, retry=Retry(NoBackoff(), 0)
    )


def test_it_forwards_and_cuts(valkey: Valkey) -> None:
    with Proxy(valkey.port) as proxy, client(proxy) as one:
        one.set("key", "x" * 1_000_000)
        assert one.strlen("key") == 1_000_000
        proxy.cut()

        def is_cut() -> bool:
            try:
                one.ping()
            except redis.ConnectionError:
                return True
            return False

        wait_until(is_cut, 5)


def test_what_was_silent_stays_so_and_what_is_new_works(valkey: Valkey) -> None:
    with Proxy(valkey.port) as proxy, client(proxy) as old:
        old.ping()
        proxy.silence()
        wait_until(lambda: all(link.silent for link in proxy._links), 5)
        with pytest.raises(redis.TimeoutError), client(proxy) as during:
            during.ping()
        proxy.speak()
        with pytest.raises(redis.TimeoutError):
            old.set("key", "lost")
        with client(proxy) as new:
            new.ping()
            assert new.get("key") is None


def test_an_unheard_command_was_done(valkey: Valkey) -> None:
    with Proxy(valkey.port) as proxy:
        proxy.lose_replies(1, b"LPUSH")
        with client(proxy) as one, pytest.raises(redis.ConnectionError):
            one.lpush("list", "once")
        proxy.keep_replies()
        assert valkey.command("LLEN", "list") == 1
