"""RedBeat: entries in Redis, found by their due time; written in pipelines, as its own `save` writes them.

Its documentation advises nothing for speed. Each entry is an interval of a day that ran last a day before
the instant it is due.
"""

import json
import sys

import beat
import order
from celery.schedules import schedule
from redbeat import RedBeatSchedulerEntry
from redbeat.decoder import RedBeatJSONEncoder
from redbeat.schedulers import ensure_conf, get_redis

app = beat.make_app(beat_scheduler="redbeat.RedBeatScheduler", redbeat_redis_url=order.BROKER_URL,
                    redbeat_redis_options={})  # fmt: skip
BATCH = 1_000


def store() -> None:
    """Store all entries."""
    ensure_conf(app)
    every = schedule(order.EVERY, app=app)
    with get_redis(app).pipeline(transaction=False) as pipe:
        for number, due in order.orders():
            entry = RedBeatSchedulerEntry(
                f"entry-{number}", "noop", every, args=[number], app=app, last_run_at=due - order.EVERY
            )
            fields = ("name", "task", "args", "kwargs", "options", "schedule", "enabled")
            definition = {name: getattr(entry, name) for name in fields}
            meta = {"last_run_at": entry.last_run_at}
            pipe.hset(entry.key, "definition", json.dumps(definition, cls=RedBeatJSONEncoder))
            pipe.hset(entry.key, "meta", json.dumps(meta, cls=RedBeatJSONEncoder))
            # Not `entry.score`, which is right only for an entry that has run just now.
            pipe.zadd(app.redbeat_conf.schedule_key, {entry.key: int(due.timestamp())})
            if len(pipe) >= BATCH:
                pipe.execute()
        pipe.execute()


if __name__ == "__main__":
    order.command_line(sys.argv, store, lambda: beat.run_both(__file__))
