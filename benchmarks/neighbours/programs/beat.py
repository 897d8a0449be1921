"""What the neighbours that are schedulers of Celery beat share: an app with the no-op, a worker, a beat.

As Celery's "Optimizing" and "Workers" guides advise for many short tasks: results ignored, a pool process for
each core (the default), a large prefetch multiplier, no gossip, mingle or heartbeat between workers, no
events. Both log warnings only: beat writes a line for each task at INFO.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import order
from celery import Celery

WORKER = [
    "worker",
    "--without-gossip",
    "--without-mingle",
    "--without-heartbeat",
    "--prefetch-multiplier=128",
]


def make_app(**settings: object) -> Celery:
    """An app that knows the no-op."""
    app = Celery(broker=order.BROKER_URL, set_as_current=True)
    app.conf.update(task_ignore_result=True, result_expires=None, timezone="UTC", **settings)
    app.task(order.mark, name="noop")
    return app


def run_both(program: str, *beat: str) -> None:
    """A worker and a beat of this program's app; returns when one of them has ended."""
    celery = [sys.executable, "-m", "celery", "-A", Path(program).stem]
    processes = [
        subprocess.Popen([*celery, *WORKER, "--loglevel=WARNING"]),
        subprocess.Popen([*celery, "beat", "--loglevel=WARNING", *beat], env={**os.environ, "BEAT": "1"}),
    ]
    os.waitpid(-1, 0)
    sys.exit(f"one of {[process.args for process in processes]} has ended")
