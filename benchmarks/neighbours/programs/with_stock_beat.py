"""Stock Celery beat: entries in `beat_schedule`, last runs in a shelve file (PersistentScheduler).

There is nothing its documentation advises for many entries. Each entry is an interval of a day that ran last
a day before the instant it is due.
"""

import os
import sys
from typing import Any

import beat
import order

app = beat.make_app()


def entries() -> dict[str, dict[str, Any]]:
    """The static schedule."""
    return {
        f"entry-{number}": {
            "task": "noop",
            "schedule": order.EVERY,
            "args": [number],
            "last_run_at": due - order.EVERY,
        }
        for number, due in order.orders()
    }


if os.environ.get("BEAT"):
    app.conf.beat_schedule = entries()

if __name__ == "__main__":
    order.command_line(sys.argv, lambda: None, lambda: beat.run_both(__file__, "--schedule=beat-schedule"))
