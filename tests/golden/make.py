"""Writes tests/golden/occurrences.json anew. Only for a rule that was meant to change: read the diff.

    python -m tests.golden.make

The dates lie in the past, or so near that no update of the tz database should move them.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from triggers.schedule import next_occurrences

FILE = Path(__file__).with_name("occurrences.json")


def main() -> None:
    """Compute the occurrences of each case again, as many as it has."""
    document = json.loads(FILE.read_text())
    for case in document["cases"]:
        after, count = datetime.fromisoformat(case["after"]), len(case["occurrences"])
        found = next_occurrences(case["schedule"], after, count)
        case["occurrences"] = [instant.isoformat().replace("+00:00", "Z") for instant in found]
    FILE.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
