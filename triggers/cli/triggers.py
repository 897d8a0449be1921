"""The operator's commands on triggers: create, apply, list, show, pause, resume, delete, fire."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, BinaryIO

import click
from sqlalchemy import Connection

from models.database import Database
from models.states import TriggerState
from triggers import manage
from triggers.apply import apply, triggers_in
from triggers.cli.base import Session, command
from triggers.cli.output import Document, brief, note, page, print_fields, print_table
from triggers.definition import load_json, parse_trigger, warnings_for
from triggers.errors import NotJson
from triggers.store import reads
from triggers.yaml_reader import load_yaml

MOST = 500  # on one page
FILE = click.option("-f", "--file", type=click.File("rb"), required=True, help="- is standard input.")


def describe(session: Session, connection: Connection, ref: str, now: datetime) -> Document:
    """The trigger with its next occurrences and warnings, as the endpoint answers a create."""
    warnings = partial(warnings_for, allow_private=session.settings.allow_private_targets)
    return reads.describe_trigger(connection, ref, now, warnings)


@FILE
@command
def create(session: Session, file: BinaryIO) -> None:
    """Create one trigger from a JSON document."""
    document = load_json(file.read())
    with session.changing() as database:
        with database.write() as connection:
            now = database.now(connection)
            made = manage.create(connection, parse_trigger(document, session.settings, now), database.now)
            answer = describe(session, connection, made.id, now)
        session.hint(made.next_at, now)
    session.answer(answer, print_created)


def print_created(trigger: Document) -> None:
    """The new trigger's name and what follows from its schedule."""
    click.echo(f"created {trigger['name']} ({trigger['id']})")
    for occurrence in trigger["next_occurrences"]:
        click.echo(f"  {brief(occurrence)}")
    for warning in trigger["warnings"]:
        note(f"warning: {warning}")


@FILE
@click.option(
    "--prune", is_flag=True, help="Delete every trigger that is not in the file, whatever its state."
)
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@command
def apply_(session: Session, file: BinaryIO, prune: bool, dry_run: bool) -> None:
    """Create or edit, by name, the triggers that a YAML file lists under `triggers:`. All, or none."""
    documents = triggers_in(load_yaml(file.read()))
    with session.database() if dry_run else session.changing() as database:
        done = apply(database, documents, session.settings, prune=prune, dry_run=dry_run)
        if not dry_run:
            with database.read() as connection:
                now = database.now(connection)
            session.hint(min((one.next_at for one in done if one.next_at), default=None), now)
    session.answer(page([one.document() for one in done]), partial(print_applied, prune, dry_run))


def print_applied(prune: bool, dry_run: bool, answer: Document) -> None:
    """What became of each trigger, and each field that was changed."""
    marks = {"created": "+", "edited": "~", "unchanged": "="} | ({"deleted": "-"} if prune else {})
    for one in answer["items"]:
        click.echo(f"{marks[one['action']]} {one['name']}  {one['action']}")
        for change in one["changes"]:
            before, after = (json.dumps(change[side], ensure_ascii=False) for side in ("before", "after"))
            click.echo(f"    {change['pointer']}: {before} -> {after}")
    count = Counter(one["action"] for one in answer["items"])
    said = ", ".join(f"{count[action]} {action}" for action in marks)
    click.echo(f"nothing is changed, it would be: {said}" if dry_run else said)


@click.option("--tag", help="Only those with this tag.")
@click.option("--state", type=click.Choice([str(state) for state in TriggerState]))
@click.option("--limit", type=click.IntRange(1, MOST), default=MOST, show_default=True)
@click.option("--cursor", help="Where the page before ended.")
@command
def list_(session: Session, tag: str | None, state: str | None, limit: int, cursor: str | None) -> None:
    """List the triggers, oldest first."""
    with session.database() as database, database.read() as connection:
        answer = reads.trigger_page(connection, limit=limit, cursor=cursor, tag=tag, state=state)
    session.answer(answer, print_list)


def print_list(answer: Document) -> None:
    """One line a trigger."""
    rows = [
        (
            trigger["name"],
            trigger["state"],
            schedule_in_words(trigger["schedule"]),
            target_in_words(trigger["target"]),
            brief(trigger["next_fire_at"]),
            brief(trigger["last_fired_at"]),
        )
        for trigger in answer["items"]
    ]
    print_table(("NAME", "STATE", "SCHEDULE", "TARGET", "NEXT", "LAST"), rows)
    if answer["next_cursor"]:
        note(f"there are more: --cursor {answer['next_cursor']}")


def schedule_in_words(schedule: Document) -> str:
    """A schedule in a cell of a table."""
    match schedule["type"]:
        case "cron":
            return f"{schedule['cron']} {schedule['timezone']}"
        case "interval":
            return f"every {schedule['every_seconds']} s"
        case "once":
            zone = "" if schedule["at"].endswith("Z") else f" {schedule['timezone']}"
            return f"once {schedule['at']}{zone}"
        case other:
            return str(other)


def target_in_words(target: Document) -> str:
    """A target in a cell of a table."""
    match target["type"]:
        case "http":
            return f"{target['method']} {target['url']}"
        case "celery":
            return str(target["task"])
        case other:
            return str(other)


@click.argument("trigger")
@command
def show(session: Session, trigger: str) -> None:
    """Show a trigger, by id or name."""
    with session.database() as database, database.read() as connection:
        answer = describe(session, connection, trigger, database.now(connection))
    session.answer(answer, print_fields)


@click.argument("trigger")
@command
def pause(session: Session, trigger: str) -> None:
    """Plan nothing for a trigger until it is resumed."""
    with session.database() as database:
        change(session, database, trigger, manage.pause, "paused")


@click.argument("trigger")
@command
def resume(session: Session, trigger: str) -> None:
    """Plan again, from now on."""
    with session.changing() as database:
        change(session, database, trigger, manage.resume, "resumed")


def change(
    session: Session, database: Database, ref: str, verb: Callable[..., manage.Changed], done: str
) -> None:
    """Pause or resume, and tell what the trigger is now."""
    with database.write() as connection:
        changed = verb(connection, ref, database.now)
        answer = reads.get_trigger(connection, changed.id)
        now = database.now(connection)
    session.hint(changed.next_at if changed.changed else None, now)
    word = done if changed.changed else f"{changed.state} already"
    session.answer(answer, lambda _: click.echo(f"{changed.name}: {word}"))


@click.argument("trigger")
@command
def delete(session: Session, trigger: str) -> None:
    """Take a trigger out of use and free its name. Its events stay."""
    with session.database() as database, database.write() as connection:
        deleted = manage.delete(connection, trigger, database.now)
    answer = {"id": deleted.id, "name": deleted.name, "deleted": True}
    session.answer(answer, lambda _: click.echo(f"{deleted.name}: deleted"))


@click.argument("trigger")
@click.option("--payload", help="JSON that replaces body or kwargs of this one event.")
@command
def fire(session: Session, trigger: str, payload: str | None) -> None:
    """Make an event that is due at once, whatever the trigger's state."""
    replacement = payload_of(payload)
    with session.changing() as database:
        with database.write() as connection:
            fired = manage.fire(connection, trigger, database.now, replacement)
            answer = reads.get_event(connection, fired.event_id)
        session.hint(fired.due_at, fired.due_at)
    session.answer(answer, lambda _: click.echo(f"{fired.name}: fired, event {fired.event_id}"))


def payload_of(text: str | None) -> Any:
    """The value of `--payload`. Raises BadParameter for what is not JSON, or null, which replaces nothing."""
    if text is None:
        return None
    try:
        value = load_json(text.encode("utf-8", "surrogatepass"))
    except NotJson as error:
        raise click.BadParameter(str(error), param_hint="--payload") from None
    if value is None:
        raise click.BadParameter("null replaces nothing", param_hint="--payload")
    return value


COMMANDS = (create, apply_, list_, show, pause, resume, delete, fire)
