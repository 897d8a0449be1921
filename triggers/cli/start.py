"""The operator's first commands: up, migrate, preview."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import click
from sqlalchemy.exc import SQLAlchemyError

from models.database import alembic_config, in_one_line
from models.database import migrate as bring_up_to_date
from triggers import schedule as schedules
from triggers.cli.base import Refused, Session, command
from triggers.cli.output import Document, brief, note, page, print_table
from triggers.errors import InvalidSchedule
from triggers.rfc3339 import format_utc, parse_moment
from triggers.stack import machine_now
from triggers.stack import up as run_stack

MOST_PREVIEWED = 1_000
USUALLY_PREVIEWED = 10


@click.option("--demo", is_flag=True, help="Create a trigger that fires every 10 s, once.")
@command
def up(session: Session, demo: bool) -> None:
    """Run all of it here: broker, endpoint, worker, beat. Ctrl-C ends it."""
    try:
        run_stack(session.settings, demo, session.as_json)
    except SQLAlchemyError as error:
        raise Refused(f"the database cannot be used: {in_one_line(error)}") from error


@command
def migrate(session: Session) -> None:
    """Bring the schema of the database to its newest version."""
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    url = session.settings.database_url
    try:
        bring_up_to_date(url)
    except SQLAlchemyError as error:
        raise Refused(f"the database cannot be used: {in_one_line(error)}") from error
    except CommandError as error:  # its schema is of a version that we do not know
        raise Refused(f"the database cannot be migrated: {error}") from error
    version = ScriptDirectory.from_config(alembic_config(url)).get_current_head()
    session.answer({"schema": version}, lambda _: click.echo(f"the schema is at version {version}"))


@click.argument("cron")
@click.option("--timezone", default="UTC", show_default=True, help="An IANA name.")
@click.option(
    "-n", "count", type=click.IntRange(1, MOST_PREVIEWED), default=USUALLY_PREVIEWED, show_default=True
)
@click.option("--from", "start", metavar="T", help="RFC 3339, or a local time; now by default.")
@command
def preview(session: Session, cron: str, timezone: str, count: int, start: str | None) -> None:
    """Show when a cron expression fires after T, with a note at each clock change."""
    schedule = {"type": "cron", "cron": cron, "timezone": timezone}
    after = machine_now() if start is None else moment(start, timezone)
    found = [
        {"scheduled_for": format_utc(one.utc), "local": one.local.isoformat(), "note": one.note}
        for one in schedules.explain(schedule, after, count)
    ]
    answer = page(found) | {"after": format_utc(after), "warnings": schedules.warnings(schedule, after)}
    session.answer(answer, print_preview)


def moment(text: str, timezone: str) -> datetime:
    """The instant that `--from` names; a local time is one of the zone. Raises BadParameter."""
    try:
        read = parse_moment(text, "from")
        return read if read.tzinfo else read.replace(tzinfo=ZoneInfo(timezone))
    except (InvalidSchedule, ValueError, OSError) as error:  # OSError: a zone's name that is no file's
        raise click.BadParameter(str(error), param_hint="--from") from None


def print_preview(answer: Document) -> None:
    """One line an occurrence."""
    rows = [(brief(one["scheduled_for"]), one["local"], one["note"]) for one in answer["items"]]
    print_table(("UTC", "LOCAL", "NOTE"), rows)
    for warning in answer["warnings"]:
        note(f"warning: {warning}")


COMMANDS = (up, migrate, preview)
