"""Who is measured. How each is set up, and what its documentation advises, stands in its program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CELERY = ("celery[redis]==5.7.0", "kombu==5.7.0", "redis==8.1.0")
SQLALCHEMY = ("sqlalchemy==2.1.9", "psycopg[binary]==3.3.9")


@dataclass(frozen=True)
class Neighbour:
    """One of them: `program` is a file in `programs/`, `packages` are what it needs, with their versions."""

    name: str
    title: str
    program: str
    packages: tuple[str, ...]
    ready_seconds: float = 7.0  # from the beginning of the storing until it is ready, with nothing stored
    loading_seconds: float = 0.12  # and so much more for each thousand
    settings: Mapping[str, str] = field(default_factory=dict)
    runs_celery: bool = False

    @property
    def for_node(self) -> bool:
        """Whether it needs Node.js."""
        return self.program.endswith(".mjs")


GRAPHILE = ("with_graphile_worker.mjs", ("graphile-worker@0.17.3",))  # the newest that runs on Node.js 20

ROSTER = (
    Neighbour("stock-beat", "stock Celery beat", "with_stock_beat.py", CELERY, runs_celery=True),
    Neighbour(
        "django-celery-beat",
        "django-celery-beat",
        "with_django_celery_beat.py",
        (*CELERY, "django==5.2.19", "django-celery-beat==2.9.0", "psycopg[binary]==3.3.9"),
        ready_seconds=11.0,  # its migrations
        loading_seconds=0.4,
        runs_celery=True,
    ),
    Neighbour(
        "sqlalchemy-celery-beat",
        "sqlalchemy-celery-beat",
        "with_sqlalchemy_celery_beat.py",
        (*CELERY, *SQLALCHEMY, "sqlalchemy-celery-beat==0.9.1"),
        loading_seconds=0.3,
        runs_celery=True,
    ),
    Neighbour("redbeat", "RedBeat", "with_redbeat.py", (*CELERY, "celery-redbeat==2.4.2"), runs_celery=True),
    Neighbour("apscheduler", "APScheduler 3", "with_apscheduler.py", (*SQLALCHEMY, "apscheduler==3.11.3")),
    Neighbour(
        "procrastinate",
        "Procrastinate",
        "with_procrastinate.py",
        ("procrastinate==3.10.0", "psycopg[binary,pool]==3.3.9"),
    ),
    Neighbour("bullmq", "BullMQ job schedulers", "with_bullmq.mjs", ("bullmq@6.7.0", "ioredis@6.0.0")),
    Neighbour("graphile-worker", "graphile-worker", *GRAPHILE, loading_seconds=0.05),
    Neighbour(
        "graphile-worker-tuned",
        "graphile-worker, tuned",
        *GRAPHILE,
        loading_seconds=0.05,
        settings={"TUNED": "1"},
    ),
)
