"""An environment of its own for each neighbour, below a cache directory that `make clean` removes."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import ROOT
from benchmarks.neighbours.roster import Neighbour

CACHE = ROOT / ".benchmarks"
INSTALL_SECONDS = 600


class NotInstalled(Exception):
    """This neighbour cannot be measured here; the message says why, in one line."""


def prepare(neighbour: Neighbour, cache: Path = CACHE) -> Path:
    """The directory of its environment, made anew when what is to be installed has changed.

    Raises `NotInstalled`.
    """
    packages = sorted(neighbour.packages)
    directory = cache / Path(neighbour.program).stem.removeprefix("with_")
    stamp = directory / "installed.json"
    wanted = json.dumps([platform.python_version(), *packages])
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        install_for_node(directory, packages) if neighbour.for_node else install(directory, packages)
        stamp.write_text(wanted)
    return directory


def install(directory: Path, packages: Sequence[str]) -> None:
    """With our own pip, as this machine has configured it: to install one takes longer than the packages."""
    execute([sys.executable, "-m", "venv", "--without-pip", str(directory)])
    quiet = ("--quiet", "--no-input", "--disable-pip-version-check")
    python = directory / "bin" / "python"
    execute([sys.executable, "-m", "pip", f"--python={python}", "install", *quiet, *packages])


def install_for_node(directory: Path, packages: Sequence[str]) -> None:
    """With npm, as this machine has configured it; no lock is left, since that names addresses."""
    if not (shutil.which("npm") and shutil.which("node")):
        raise NotInstalled("Node.js (node and npm) is not on this machine")
    quiet = ("--loglevel=error", "--no-audit", "--no-fund", "--no-package-lock", "--no-save")
    execute(["npm", "install", *quiet, "--prefix", str(directory), *packages])


def execute(command: Sequence[str]) -> None:
    """Run a command that installs something."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise NotInstalled(f"{command[0]}: {failure}") from failure
    if done.returncode:
        raise NotInstalled(reason(done.stdout + done.stderr) or f"{command[0]} ended with {done.returncode}")


def reason(output: str) -> str:
    """The line that says why: pip's last error, npm's first behind its code; no address of an index."""
    said = [line.strip() for line in output.splitlines() if line.strip()]
    of_npm = [line for line in said if line.startswith("npm error") and not line.startswith("npm error code")]
    of_pip = [line for line in said if line.startswith("ERROR")]
    line = (of_npm[:1] or of_pip[-1:] or said[-1:] or [""])[0]
    return re.sub(r"https?://\S+", "(the package index)", line)[:300]
