"""`triggerbeat`: the operator's command line.

Little is imported before `main` runs: half a second of imports is long enough for somebody's Ctrl-C.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command. An error is one line on standard error, never a traceback of ours.

    A reader that has had enough, as `head` has, ends the command without a word: click sees to that.
    """
    try:
        status = run()
    except KeyboardInterrupt:
        status = 130  # as shells have it for Ctrl-C
    sys.exit(status)


def run() -> int:
    """Run the command of the command line, and return its exit status."""
    import click

    from triggers.cli.base import report
    from triggers.cli.commands import cli
    from triggers.errors import TriggerbeatError

    try:
        status = cli.main(prog_name="triggerbeat", standalone_mode=False)
    except (TriggerbeatError, click.ClickException, click.Abort) as error:
        return report(error)
    return status if isinstance(status, int) else 0
