"""Procrastinate: jobs scheduled for one instant, deferred in batches; one asynchronous worker.

It has no standing schedules of users' own, so what is measured is a delayed job, without the work of planning
the next one. As its "concurrency" and "delete finished jobs" guides say: an asynchronous task, many at once,
a connection pool of a size to match, and finished jobs deleted. It looks for jobs that became due every 0.1 s
instead of every 5.
"""

import asyncio
import logging
import sys

import order
from procrastinate import App, PsycopgConnector

CONCURRENCY = 20
BATCH = 1_000

app = App(
    connector=PsycopgConnector(
        conninfo=order.DATABASE_URL.replace("+psycopg", ""), min_size=CONCURRENCY, max_size=CONCURRENCY + 5
    )
)


@app.task(name="noop")
async def noop(number: int) -> None:
    """Leave word, and nothing else."""
    order.mark(number)


async def store() -> None:
    """Make the tables, and defer all jobs in batches."""
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        waiting = list(order.orders())
        for at in range(0, len(waiting), BATCH):
            for due in (order.WARM_UP_DUE, order.DUE):
                batch = [{"number": number} for number, its in waiting[at : at + BATCH] if its == due]
                if batch:
                    await noop.configure(schedule_at=due).batch_defer_async(*batch)


async def run() -> None:
    """One worker."""
    async with app.open_async():
        await app.run_worker_async(
            concurrency=CONCURRENCY, fetch_job_polling_interval=0.1, delete_jobs="successful"
        )


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    order.command_line(sys.argv, lambda: asyncio.run(store()), lambda: asyncio.run(run()))
