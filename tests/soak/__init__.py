"""Real processes at full speed for an hour, and whether what they take is level: `python -m tests.soak`."""
