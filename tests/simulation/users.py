"""What people do to triggers: create, edit, pause, resume, delete, fire. They may never learn the outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from tests.simulation.broker import OURS, BrokerAway
from tests.simulation.scheduler import Process, Steps
from triggers import manage
from triggers.definition import parse_trigger
from triggers.errors import Conflict, InvalidDocument, InvalidSchedule, NotFound
from triggers.settings import Settings

if TYPE_CHECKING:
    from tests.simulation.world import World

SETTINGS = Settings(allow_private_targets=True)
ZONES = ("UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns")
CRONS = (
    "* * * * *",
    "*/2 * * * *",
    "*/5 * * * *",
    "15,30,45 * * * *",
    "5 * * * *",
    "5-55/10 1-3 * * *",  # fixed jobs before, in and after what clocks skip or repeat
    "*/7 1-3 * * *",  # and one with a wildcard, which follows real time
)
OCCURRENCES = 40  # that a new schedule has, about
Work = Callable[[Connection], Any]


class Users:
    """Some people, each at a time of their own."""

    def __init__(self, world: World, name: str, pause: float) -> None:
        self.world = world
        self.pause = pause  # seconds between two deeds
        self.process = Process(world.scheduler, name, self.start, restarts_after=20.0)

    def start(self) -> Iterable[Steps]:
        """Someone who goes on until the end."""
        yield self.live()

    def live(self) -> Steps:
        """Deed after deed."""
        random = self.world.random
        while not self.world.closing:
            yield random.expovariate(1 / self.pause)
            if self.world.closing:
                return
            deed = random.choices(
                (self.create, self.edit, self.pause_one, self.resume, self.delete, self.fire),
                (3, 4, 3, 4, 1, 4),
            )[0]
            deed()

    # Deeds

    def create(self) -> None:
        """A new trigger."""
        world = self.world
        given = self.document(f"t{len(world.names)}")
        world.names.append(given["name"])

        def work(connection: Connection) -> Any:
            document = parse_trigger(given, SETTINGS, world.database.now(connection))
            made = manage.create(connection, document, world.database.now)
            world.allows(made.id, given["retry"]["max_attempts"])
            return made

        made = self.do("creates", given["name"], work)
        if made is not None:
            self.told(made.id, "created")
            self.hint(made.next_at)

    def crowd(self, size: int) -> None:
        """Many triggers that plan alike, in one transaction."""
        world = self.world
        given = self.document(f"crowd{len(world.names)}")
        bounds = {"end_time": world.end.isoformat(), "max_runs": self.world.random.randint(2, 8)}
        given["target"] = self.target(self.world.random.choices(("log", "http", "celery"), (6, 3, 1))[0])
        given["schedule"] = {"type": "interval", "every_seconds": world.random.randint(20, 120), **bounds}
        names = [f"{given['name']}.{number}" for number in range(size)]
        world.documents |= {name: given | {"name": name} for name in names}
        world.names += names[:2]  # nobody ever touches the others

        def work(connection: Connection) -> Any:
            document = parse_trigger(given, SETTINGS, world.database.now(connection))
            for name in names:
                made = manage.create(
                    connection, document.model_copy(update={"name": name}), world.database.now
                )
                world.allows(made.id, given["retry"]["max_attempts"])
            return made

        made = self.do("creates", f"{size} times {given['name']}", work)
        if made is not None:
            self.hint(made.next_at)

    def edit(self) -> None:
        """Another schedule, policy, target or retry; sometimes all of it."""
        world, random = self.world, self.world.random
        name = self.someone()
        if name is None:
            return
        fresh = self.document(name)
        before = world.documents.get(name, fresh)
        parts = random.choice(
            (["schedule"], ["policy"], ["target"], ["retry"], ["schedule", "policy"], list(fresh))
        )
        given = before | {part: fresh[part] for part in parts}

        def work(connection: Connection) -> Any:
            document = parse_trigger(given, SETTINGS, world.database.now(connection))
            changed = manage.edit(connection, name, document, world.database.now)
            world.allows(changed.id, given["retry"]["max_attempts"])
            world.edited.add(changed.id)
            return changed

        self.change("edits", name, work, "edited")
        world.documents[name] = given

    def pause_one(self) -> None:
        """No more, for now."""
        name = self.someone()
        if name is not None:
            self.change("pauses", name, lambda c: manage.pause(c, name, self.world.database.now), "paused")

    def resume(self) -> None:
        """On again."""
        name = self.someone()
        if name is not None:
            self.change("resumes", name, lambda c: manage.resume(c, name, self.world.database.now), "resumed")

    def delete(self) -> None:
        """Away with it; its name may come back."""
        name = self.someone()
        if name is not None:
            self.change("deletes", name, lambda c: manage.delete(c, name, self.world.database.now), "deleted")

    def fire(self) -> None:
        """Now."""
        name = self.someone()
        if name is None:
            return
        fired = self.do("fires", name, lambda c: manage.fire(c, name, self.world.database.now))
        if fired is not None:
            self.world.ledger.fired.append(fired.event_id)
            self.hint(fired.due_at)

    # How

    def someone(self) -> str | None:
        """The name of a trigger that is, or was, there."""
        return self.world.random.choice(self.world.names) if self.world.names else None

    def change(self, verb: str, name: str, work: Work, change: str) -> None:
        """Change a trigger; ask for a tick if one has something to do."""
        changed = self.do(verb, name, work)
        if changed is not None and changed.changed:
            self.told(changed.id, change)
            self.hint(changed.next_at)

    def do(self, verb: str, name: str, work: Work) -> Any:
        """One transaction; what came of it, or None: refused, or nobody knows."""
        self.world.scheduler.tell(self.process.name, f"{verb} {name}")
        try:
            with self.world.database.write() as connection:
                return work(connection)
        except (Conflict, NotFound, InvalidDocument, InvalidSchedule) as error:
            self.world.scheduler.tell(self.process.name, f"is refused: {error}")
        except Exception as error:
            self.world.expect(error)
        return None

    def told(self, trigger_id: str, change: str) -> None:
        """It was confirmed, so it must be true."""
        self.world.ledger.told[trigger_id, change] += 1

    def hint(self, next_at: datetime | None) -> None:
        """Ask for a tick, as the endpoint and the command line do; nobody minds when it is lost."""
        if next_at is None or next_at > self.world.scheduler.now + self.world.horizon:
            return
        with suppress(BrokerAway):
            self.world.broker.publish(OURS, ("tick", True))

    # Definitions

    def document(self, name: str) -> dict[str, Any]:
        """A definition at random."""
        random = self.world.random
        given = {
            "name": name,
            "schedule": self.schedule(),
            "target": self.target(),
            "policy": {
                "misfire": random.choice(("skip", "fire_once", "fire_all")),
                "misfire_grace_seconds": random.choice((1, 5, 60)),
                "catchup_window_seconds": random.choice((0, 60, 600, 86_400)),
                "overlap": random.choice(("allow", "allow", "skip", "queue")),
                "timeout_seconds": random.choice((2, 5, 20)),
                "pause_after_failures": random.choice((None, None, 1, 3)),
            },
            "retry": {
                "max_attempts": random.choice((1, 2, 3, 5)),
                "min_backoff_seconds": random.choice((1, 5, 20)),
                "max_backoff_seconds": random.choice((20, 120)),
            },
        }
        self.world.documents.setdefault(name, given)
        return given

    def schedule(self) -> dict[str, Any]:
        """Mostly intervals. Each ends with the span, or is ended then."""
        world, random = self.world, self.world.random
        kind = random.choices(("interval", "cron", "once", "manual"), (6, 3, 2, 0.5))[0]
        if kind == "manual":
            return {"type": "manual"}
        if kind == "once":
            at = world.scheduler.now + timedelta(seconds=random.uniform(-1, 300))
            return {"type": "once", "at": "now" if random.random() < 0.3 else at.isoformat()}
        bounds: dict[str, Any] = {}
        if random.random() < 0.85:
            bounds["end_time"] = world.end.isoformat()
        if random.random() < 0.2:
            bounds["max_runs"] = random.randint(1, 12)
        if random.random() < 0.2:
            bounds["jitter_seconds"] = random.choice((1, 10, 40))
        if kind == "cron":
            zone = random.choice(ZONES)
            if zone != "UTC":
                zone = world.night or zone
            return {"type": "cron", "cron": random.choice(CRONS), "timezone": zone, **bounds}
        if random.random() < 0.4:
            start = world.scheduler.now + timedelta(seconds=random.uniform(-600, 120))
            bounds["start_time"] = start.isoformat()
        shortest = max(1, int(world.span.total_seconds() / OCCURRENCES))
        return {"type": "interval", "every_seconds": random.randint(shortest, 6 * shortest), **bounds}

    def target(self, kind: str | None = None) -> dict[str, Any]:
        """Something to do."""
        kind = kind or self.world.random.choice(("log", "http", "http", "celery"))
        if kind == "log":
            return {"type": "log", "message": "{{event_id}} {{attempt}}"}
        if kind == "http":
            return {"type": "http", "url": "http://127.0.0.1:9/"}
        return {"type": "celery", "task": self.world.random.choice(("examples.tasks.a", "examples.tasks.b"))}


def end_all(world: World) -> None:
    """At the end of the span somebody pauses what would go on for ever."""
    for name in world.names:
        try:
            with world.database.write() as connection:
                manage.pause(connection, name, world.database.now)
        except (Conflict, NotFound):
            continue
