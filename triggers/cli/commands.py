"""All commands of `triggerbeat`, in the order in which its help lists them."""

from __future__ import annotations

from contextlib import suppress
from importlib import metadata

import click

from triggers.cli import audit, events, start, status, triggers


def version() -> str:
    """The installed version."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("triggerbeat")
    return "unknown, as it is not installed"


class InOrder(click.Group):
    """Lists the commands as they were added, which is the order in which one needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True
)
@click.version_option(version(), prog_name="triggerbeat")
@click.pass_context
def cli(context: click.Context) -> None:
    """A scheduler on Celery Beat that accounts for every occurrence.

    TRIGGER is an id or a name. Exit status: 0, 1 for "no", 2 for "used wrongly".
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for module in (start, triggers, events, audit, status):
    for one in module.COMMANDS:
        cli.add_command(one)
