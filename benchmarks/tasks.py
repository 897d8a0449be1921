"""A user's task that does nothing: what is left is what it costs to run one."""

from __future__ import annotations

from celery import shared_task


@shared_task(name="benchmarks.tasks.noop")  # type: ignore[untyped-decorator]
def noop() -> None:
    """Nothing."""
