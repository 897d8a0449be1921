"""django-celery-beat on PostgreSQL: DatabaseScheduler, entries as rows of `PeriodicTask`.

Persistent connections (CONN_MAX_AGE), as Django advises; its own documentation advises nothing for speed.
All entries share one `IntervalSchedule` of a day, and ran last a day before the instant they are due.
"""

import json
import sys
from urllib.parse import urlsplit

import beat
import django
import order
from django.conf import settings

url = urlsplit(order.DATABASE_URL)
settings.configure(
    INSTALLED_APPS=["django_celery_beat"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": url.hostname,
            "PORT": url.port,
            "USER": url.username,
            "NAME": url.path[1:],
            "CONN_MAX_AGE": None,
        }
    },
    USE_TZ=True,
    TIME_ZONE="UTC",
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()
app = beat.make_app(beat_scheduler="django_celery_beat.schedulers:DatabaseScheduler")


def store() -> None:
    """Make the tables, and store all entries in bulk."""
    from django.core.management import call_command
    from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks

    call_command("migrate", verbosity=0)
    daily = IntervalSchedule.objects.create(every=1, period=IntervalSchedule.DAYS)
    PeriodicTask.objects.bulk_create(
        (
            PeriodicTask(
                name=f"entry-{number}",
                task="noop",
                interval=daily,
                args=json.dumps([number]),
                last_run_at=due - order.EVERY,
            )
            for number, due in order.orders()
        ),
        batch_size=2_000,
    )
    PeriodicTasks.update_changed()


if __name__ == "__main__":
    order.command_line(sys.argv, store, lambda: beat.run_both(__file__))
