"""Workers on two machines: network namespaces, each with a cable to the one where the servers are."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import text

from models.database import migrate
from tests.acceptance.installation import READY_SECONDS, Installation, message
from tests.processes import Process, wait_until
from tests.servers import PostgreSQL, Valkey

EVENTS = 4_000
STARTED = " started trigger="


class Network(NamedTuple):
    """Where the servers are to listen, and a process in the namespace of each machine."""

    address: str
    neighbours: str
    machines: list[Process]


def ip(*words: str) -> None:
    """Run iproute2's `ip`; skips the test where namespaces and cables are not to be had."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"ip {' '.join(words)}: {done.stderr.strip()}")


def require_namespaces() -> None:
    """Skip without root; without iproute2, too, but in CI that is a failure."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        reason = "ip is missing: apt-get install iproute2"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Two machines. Their namespaces have no names, so they and the cables end with their processes."""
    require_namespaces()
    subnet = f"198.18.{random.randrange(256)}"  # of the range for measurements between networks
    with ExitStack() as stack:
        machines = []
        for number in range(2):
            machine = stack.enter_context(machine_of_its_own(tmp_path))
            here, there = f"tb{machine.pid}h", f"tb{machine.pid}m"
            gateway = f"{subnet}.{4 * number + 1}"
            ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", str(machine.pid))
            ip("address", "add", f"{gateway}/30", "dev", here)
            ip("link", "set", here, "up")
            for words in (
                f"address add {subnet}.{4 * number + 2}/30 dev {there}",
                f"link set {there} up",
                f"route add default via {gateway}",
            ):
                subprocess.run(on(machine, "ip", *words.split()), check=True)
            machines.append(machine)
        yield Network(f"{subnet}.1", f"{subnet}.0/24", machines)


def machine_of_its_own(directory: Path) -> Process:
    """A process that keeps a fresh network namespace alive."""
    holder = Process(["unshare", "--net", "sleep", "infinity"], directory, name="machine")
    ours = os.readlink("/proc/self/ns/net")

    def apart() -> bool:
        if not holder.alive():
            pytest.skip(f"unshare --net: {holder.output().strip()}")
        return os.readlink(f"/proc/{holder.pid}/ns/net") != ours

    wait_until(apart, 10, "a network namespace of its own")
    return holder


def on(machine: Process, *command: str) -> list[str]:
    """The command line that runs a command there."""
    return ["nsenter", f"--net=/proc/{machine.pid}/ns/net", *command]


@pytest.fixture
def installation(network: Network, tmp_path: Path) -> Iterator[Installation]:
    """Servers that the machines reach at one address, and we at loopback."""
    rules = tmp_path / "pg_hba.conf"
    rules.write_text(f"host all all 127.0.0.1/32 trust\nhost all all {network.neighbours} trust\n")
    listen = ["-c", f"listen_addresses=127.0.0.1,{network.address}", "-c", f"hba_file={rules}"]
    bind = ["--bind", "127.0.0.1", network.address, "--protected-mode", "no"]
    with (
        PostgreSQL(tmp_path / "postgres", options=listen) as postgres,
        Valkey(tmp_path / "valkey", options=bind) as valkey,
    ):
        migrate(postgres.url())
        with Installation(tmp_path / "installation", postgres.url(), valkey.url) as made:
            yield made


def worker_on(machine: Process, installation: Installation, address: str, name: str) -> Process:
    """A worker there, which reaches the servers over its cable alone."""
    urls = ("DATABASE_URL", "CELERY_BROKER_URL")
    there = {url: installation.environment[url].replace("127.0.0.1", address) for url in urls}
    options = ["--loglevel=info", "--concurrency=1", "-n", f"{name}@%h"]
    command = on(machine, "celery", "-A", "celery_config.celery_worker", "worker", *options)
    return installation.start(*command, name=name, **there)


def finished(installation: Installation) -> int:
    """How many events succeeded."""
    with installation.database.read() as connection:
        statement = text("SELECT count(*) FROM events WHERE status = 'succeeded'")
        return int(connection.execute(statement).scalar_one())


@pytest.mark.slow
def test_workers_on_two_machines_share_a_burst(installation: Installation, network: Network) -> None:
    """One tick plans it, both start some of it, and nobody starts what the other has."""
    workers = [
        worker_on(machine, installation, network.address, name)
        for machine, name in zip(network.machines, ("one", "two"), strict=True)
    ]
    for worker in workers:
        worker.expect(" ready.", READY_SECONDS)
    installation.create_many("burst", [message()] * EVENTS)
    installation.hint()
    wait_until(lambda: finished(installation) == EVENTS, 120, lambda: f"{finished(installation)} succeeded")
    wait_until(lambda: sum(started(workers)) >= EVENTS, 20, lambda: f"{started(workers)} started")
    assert sum(started(workers)) == EVENTS
    assert min(started(workers)) > 0, started(workers)
    installation.audit()


def started(workers: list[Process]) -> list[int]:
    """How many events each worker's log says it started."""
    return [worker.output().count(STARTED) for worker in workers]
