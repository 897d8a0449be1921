"""sqlalchemy-celery-beat on PostgreSQL: DatabaseScheduler, entries as rows of `PeriodicTask`.

Its documentation advises nothing for speed; the engine keeps its pool of connections, as is its default. All
entries share one `IntervalSchedule` of a day, and ran last a day before the instant they are due.
"""

import json
import sys

import beat
import order

URL = order.DATABASE_URL
app = beat.make_app(beat_scheduler="sqlalchemy_celery_beat.schedulers:DatabaseScheduler", beat_dburi=URL)


def store() -> None:
    """Make the tables, and store all entries in bulk."""
    from sqlalchemy import insert
    from sqlalchemy_celery_beat.models import IntervalSchedule, Period, PeriodicTask
    from sqlalchemy_celery_beat.session import SessionManager

    sessions = SessionManager()
    engine, make_session = sessions.create_session(URL)
    sessions.prepare_models(engine)
    with make_session() as session:
        daily = IntervalSchedule(every=1, period=Period.DAYS)
        session.add(daily)
        session.flush()
        rows = [
            {
                "name": f"entry-{number}",
                "task": "noop",
                "args": json.dumps([number]),
                "discriminator": daily.discriminator,
                "schedule_id": daily.id,
                "last_run_at": due - order.EVERY,
            }
            for number, due in order.orders()
        ]
        session.execute(insert(PeriodicTask.__table__), rows)
        session.commit()


if __name__ == "__main__":
    order.command_line(sys.argv, store, lambda: beat.run_both(__file__))
