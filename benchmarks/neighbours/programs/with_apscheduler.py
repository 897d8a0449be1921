"""APScheduler 3: BlockingScheduler, SQLAlchemyJobStore on PostgreSQL, jobs in a pool of threads.

As its user guide says: `misfire_grace_time=None`, or jobs that wait for a thread are dropped, and a pool as
large as the work needs (its default, ten threads, is enough for a no-op). The engine pools connections.
Each job is an interval of a day that begins at the instant it is due; they are written in bulk, in the form
in which the job store writes them.
"""

import logging
import pickle
import sys

import order
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.job import Job
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy import insert

THREADS = 10


def scheduler() -> BlockingScheduler:
    """One that runs the stored jobs."""
    return BlockingScheduler(
        jobstores={"default": SQLAlchemyJobStore(order.DATABASE_URL)},
        executors={"default": ThreadPoolExecutor(THREADS)},
        job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        timezone="UTC",
    )


def store() -> None:
    """Make the table, and store all jobs in bulk."""
    owner = scheduler()
    jobs = SQLAlchemyJobStore(order.DATABASE_URL)
    jobs.start(owner, "default")
    rows = []
    for number, due in order.orders():
        job = Job(
            owner,
            id=f"entry-{number}",
            func="order:mark",
            trigger=IntervalTrigger(days=1, start_date=due, timezone="UTC"),
            executor="default",
            args=(number,),
            kwargs={},
            name="noop",
            misfire_grace_time=None,
            coalesce=True,
            max_instances=1,
            next_run_time=due,
        )
        state = pickle.dumps(job.__getstate__(), jobs.pickle_protocol)
        rows.append({"id": job.id, "next_run_time": due.timestamp(), "job_state": state})
    with jobs.engine.begin() as connection:
        connection.execute(insert(jobs.jobs_t), rows)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    order.command_line(sys.argv, store, lambda: scheduler().start())
