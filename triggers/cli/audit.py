"""The operator's command that proves: audit."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click

from triggers import tzdata
from triggers.audit.records import Finding, Note, Report, Span
from triggers.audit.run import BadSpan
from triggers.audit.run import audit as audit_of
from triggers.cli.base import NO, Session, command
from triggers.cli.output import Document, brief, note, print_fields, print_table
from triggers.errors import InvalidSchedule
from triggers.rfc3339 import format_utc, parse_instant
from triggers.store import reads

PATIENCE_SECONDS = 600  # for the first rows: of a short span in a large table they may be far apart


@click.option("--from", "since", help="The first instant, RFC 3339. Default: 24 hours before the last.")
@click.option("--to", "until", help="The last instant, exclusive. Default: now.")
@click.option("--trigger", help="Of this trigger alone, by id or name; tells also why it did not run.")
@command
def audit(session: Session, since: str | None, until: str | None, trigger: str | None) -> int:
    """Recompute every occurrence that should be there, and hold it against the events.

    Exit status 1 when anything is missing, duplicate, unexpected or overdue.
    """
    first, last = instant_of(since, "--from"), instant_of(until, "--to")
    settings = session.settings
    with session.database(PATIENCE_SECONDS) as database:
        trigger_id = None
        if trigger is not None:
            with database.read() as connection:
                trigger_id = reads.owner_of_events(connection, trigger)
        try:
            span, report = audit_of(
                database,
                first,
                last,
                trigger_id,
                patience=timedelta(seconds=settings.tick_seconds + settings.horizon_seconds),
                archive_after=timedelta(seconds=settings.event_active_seconds),
                tzdata=tzdata.release(),
            )
        except BadSpan as error:
            raise click.UsageError(str(error)) from None
    session.answer(document(span, report), print_audit)
    return 0 if report.ok else NO


def instant_of(text: str | None, option: str) -> datetime | None:
    """The instant of an option. Raises BadParameter."""
    try:
        return None if text is None else parse_instant(text, option)
    except InvalidSchedule as error:
        raise click.BadParameter(str(error), param_hint=option) from None


def document(span: Span, report: Report) -> Document:
    """The answer as JSON has it."""
    answer = {
        "ok": report.ok,
        "from": format_utc(span.since),
        "to": format_utc(span.until),
        "now": format_utc(span.now),
        "triggers": report.triggers,
        **report.document(),
        "did_not_run": dict(sorted(report.did_not_run.items())),
        "findings": [finding_document(finding) for finding in report.findings],
        "findings_left_out": report.left_out,
    }
    return answer | ({"notes": [note_document(one) for one in report.notes]} if report.explain else {})


def finding_document(finding: Finding) -> Document:
    """Something that is wrong."""
    at = finding.scheduled_for
    return {
        "kind": str(finding.kind),
        "code": str(finding.code),
        "trigger": finding.trigger,
        "trigger_id": finding.trigger_id,
        "scheduled_for": None if at is None else format_utc(at),
        "event": finding.event,
        "occurrences": finding.occurrences,
        "text": finding.text,
    }


def note_document(one: Note) -> Document:
    """Occurrences that did not run, in order."""
    return {
        "code": one.code,
        "from": format_utc(one.since),
        "to": format_utc(one.until),
        "occurrences": one.occurrences,
        "event": one.event,
        "text": one.text,
    }


COUNTS = ("expected", "recorded", "missing", "duplicate", "unexpected", "overdue", "unfinished", "purged")


def print_audit(answer: Document) -> None:
    """The counts, what is wrong, and why the rest did not run."""
    idle = ", ".join(f"{count} {code}" for code, count in answer["did_not_run"].items())
    span = {"from": brief(answer["from"]), "to": brief(answer["to"]), "triggers": answer["triggers"]}
    print_fields(span | {name: answer[name] for name in COUNTS} | {"did not run": idle})
    if answer["findings"]:
        click.echo()
        columns = ("kind", "code", "trigger", "scheduled_for", "text")
        rows = [tuple(in_cell(finding, name) for name in columns) for finding in answer["findings"]]
        print_table(("KIND", "CODE", "TRIGGER", "SCHEDULED FOR", "WHAT"), rows)
    if answer.get("notes"):
        click.echo()
        columns = ("code", "from", "to", "occurrences", "text")
        rows = [tuple(in_cell(one, name) for name in columns) for one in answer["notes"]]
        print_table(("DID NOT RUN", "FROM", "TO", "OCCURRENCES", "WHY"), rows)
    if answer["findings_left_out"]:
        note(f"and {answer['findings_left_out']} more")


def in_cell(row: Document, name: str) -> Any:
    """A value in a table; instants the way people read them."""
    return brief(row[name]) if name in ("scheduled_for", "from", "to") else row[name]


COMMANDS = (audit,)
