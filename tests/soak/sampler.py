"""What processes, database and broker take at an instant."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.processes import Process

if TYPE_CHECKING:
    from tests.soak.site import Site

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MB = 1 << 20
COMING_AND_GOING = ("events", "attempts")  # tables whose rows retention takes away again
BEHIND = """
SELECT count(*) FROM events WHERE recheck_at IS NOT NULL AND status = 'pending' AND due_at < {}
"""
RELATIONS = """
SELECT c.relname, pg_total_relation_size(c.oid), coalesce(s.n_dead_tup, 0)
FROM pg_class c LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
"""
Values = Mapping[str, float]


def sample(site: Site) -> dict[str, float]:
    """All that is measured, by its name: what, a colon, whose."""
    values: dict[str, float] = {}
    for role, process in site.processes.items():
        values |= of_processes(role, [process.pid])
        if pool := process.descendants():
            values |= of_processes(f"{role} pool", pool)
    values |= of_postgres(site) if site.postgres else of_sqlite(site)
    values |= of_broker(site)
    return values


def of_processes(name: str, pids: list[int]) -> dict[str, float]:
    """Resident memory, open files, those of them that are sockets, and threads, of all together."""
    memory = files = sockets = threads = 0
    for pid in pids:
        with suppress(OSError):  # it ended meanwhile
            memory += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
            opened = list(links(pid))
            files += len(opened)
            sockets += sum(target.startswith("socket:") for target in opened)
            threads += len(os.listdir(f"/proc/{pid}/task"))
    return {
        f"memory MB: {name}": memory / MB, f"open files: {name}": files,
        f"connections: {name}": sockets, f"threads: {name}": threads,
    }  # fmt: skip


def links(pid: int) -> Iterator[str]:
    """What a process has open."""
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(OSError):  # it was closed meanwhile
            yield os.readlink(entry.path)


def of_postgres(site: Site) -> dict[str, float]:
    """Sizes of relations with their indexes, rows that await the vacuum, and our connections."""
    assert site.postgres is not None
    rows = site.postgres.execute(RELATIONS)
    ((connections,),) = site.postgres.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'triggerbeat'"
    )
    ((behind,),) = site.postgres.execute(BEHIND.format("now() - interval '5 seconds'"))
    ((triggers,),) = site.postgres.execute("SELECT count(*) FROM triggers")
    ((total,),) = site.postgres.execute("SELECT pg_database_size(current_database())")
    return {
        **of_tables({name: size for name, size, _ in rows}, triggers, total, behind),
        "dead rows: events": sum(dead for name, _, dead in rows if name in COMING_AND_GOING),
        "dead rows: the rest": sum(dead for name, _, dead in rows if name not in COMING_AND_GOING),
        "connections: to the database": connections,
    }


def of_sqlite(site: Site) -> dict[str, float]:
    """Sizes of tables with their indexes, of the file and of its log."""
    file = Path(site.database_url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as connection:
        sizes = dict(
            connection.execute(
                "SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_schema USING (name)"
                " WHERE aggregate = TRUE GROUP BY tbl_name"
            )
        )
        (behind,) = connection.execute(BEHIND.format(site.instant_of_sqlite())).fetchone()
        (triggers,) = connection.execute("SELECT count(*) FROM triggers").fetchone()
    log = Path(f"{file}-wal")
    return {
        **of_tables(sizes, triggers, file.stat().st_size, behind),
        "database MB: write-ahead log": (log.stat().st_size if log.exists() else 0) / MB,
    }


def of_tables(sizes: Values, triggers: int, total: float, behind: int) -> dict[str, float]:
    """What events take, and what the rest takes for each trigger: triggers and their history stay."""
    events = sum(size for name, size in sizes.items() if name in COMING_AND_GOING)
    rest = sum(size for name, size in sizes.items() if name not in COMING_AND_GOING)
    return {
        "database MB: events": events / MB, "database MB: all": total / MB,
        "database KB a trigger: the rest": rest / 1024 / triggers,
        "events behind: 5 s and more": behind,
    }  # fmt: skip


def of_broker(site: Site) -> dict[str, float]:
    """What waits in the queues, and what the broker takes."""
    clients, memory = (site.valkey.command("INFO", section) for section in ("clients", "memory"))
    return {
        "queue: celery": site.valkey.command("LLEN", "celery"),
        "queue: tasks": site.valkey.command("LLEN", "tasks"),
        "connections: to the broker": clients["connected_clients"],
        "memory MB: the broker's data": memory["used_memory"] / MB,
    }


def alive(processes: Mapping[str, Process]) -> list[str]:
    """The roles whose process has ended."""
    return [role for role, process in processes.items() if not process.alive()]
