#!/usr/bin/env python3
"""The project's chores, for a machine that has nothing but Python: `python3 dev.py run`, or `make run`.

Standard library only, since it runs before anything is installed. It keeps one environment, `.venv`, and
installs into it only when what is to be installed has changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

if sys.version_info < (3, 11):  # noqa: UP036  this is where someone with an older one learns of it
    sys.exit(f"Triggerbeat needs Python 3.11 or newer; this is {sys.version.split()[0]}")

import tomllib

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
PYTHON = BIN / "python"
OURS = VENV / "made-by-dev"
STAMP = VENV / "installed"  # the interpreter's mark, that of the requirements, and which of LOCKS it was
LOG = VENV / "install.log"
PYPROJECT = ROOT / "pyproject.toml"
LOCKS = {"run": ROOT / "requirements" / "run.txt", "test": ROOT / "requirements" / "test.txt"}
# `run` is also what the container installs; `test` is a superset, so that both share one environment.
EXTRAS = {"run": ["embedded", "postgres", "server"], "test": ["test", "lint"]}
LINTERS = [
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "."],
    ["lint-imports", "--no-logo"],
    ["mypy"],
]
# Most tests wait most of the time, for a process or for an instant. By file, whose tests share servers.
SIDE_BY_SIDE = ["--numprocesses=2", "--dist=loadfile", "--max-worker-restart=0"]
MADE_HERE = ["build", "dist", "results", "triggerbeat.egg-info", ".hypothesis", ".schemathesis"]
MADE_HERE += [".benchmarks", ".import_linter_cache", ".mypy_cache", ".pytest_cache", ".ruff_cache"]


class Failure(Exception):
    """Something that a person has to mend; the message says what."""


# ---------------------------------------------------------------------------------- the environment


def install(tools: str) -> None:
    """Bring `.venv` to what LOCKS[tools] says; nothing to do when it is there."""
    interpreter = _mark(sys.version.encode(), str(VENV).encode())  # its scripts have their place written in
    requirements = _mark(*(path.read_bytes() for path in [PYPROJECT, *LOCKS.values()]))
    was = [*(STAMP.read_text().split() if STAMP.exists() else []), "", "", ""]
    if was[:2] == [interpreter, requirements] and was[2] in (tools, "test"):
        return
    tools = "test" if was[2] == "test" else tools  # what a developer has, `make run` does not take away
    print(f"Installing what is needed to {tools} into .venv ...", end=" ", flush=True)
    started = time.monotonic()
    if was[0] != interpreter:
        _make_environment()
    STAMP.unlink(missing_ok=True)  # an interrupted installation is none
    _pip("install", "--require-hashes", "--no-deps", "-r", str(LOCKS[tools]))
    # The lock has the build tool too: in an isolated build pip would fetch it again, unchecked.
    _pip("install", "--no-build-isolation", "--no-deps", "--editable", str(ROOT))
    STAMP.write_text(f"{interpreter} {requirements} {tools}\n")
    print(f"{time.monotonic() - started:.0f} s")


def _mark(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _make_environment() -> None:
    _remove_environment()
    VENV.mkdir()
    OURS.touch()  # before anything that may be interrupted, so that the next try may clear it away
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise Failure(f"python3 -m venv failed:\n{(made.stdout + made.stderr).strip()}")


def _remove_environment() -> None:
    if VENV.is_symlink() or (VENV.exists() and not OURS.exists()):
        raise Failure(".venv was not made by dev.py: move it away, and one is made in its place")
    shutil.rmtree(VENV, ignore_errors=True)


def _pip(*arguments: str) -> None:
    """Run pip as this machine has configured it, quietly; when it fails, show the end of its log."""
    # Bytecode is left to the first import: that compiles what is used, pip all there is.
    quiet = ["--no-compile", "--no-input", "--progress-bar=off", "--disable-pip-version-check"]
    with LOG.open("a") as log:
        command = [str(PYTHON), "-m", "pip", *arguments, *quiet]
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, check=False)
    if done.returncode:
        tail = "\n".join(f"  {line[:160]}" for line in LOG.read_text().splitlines()[-4:])
        raise Failure(
            "pip could not install the packages; they come from its package index, so is the network up?\n"
            f"{tail}\nAll it said is in {LOG.relative_to(ROOT)}."
        )


def _become(program: str, *arguments: str) -> NoReturn:
    """Be replaced by a program of the environment: it gets Ctrl-C itself, and its exit status is ours."""
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execv(BIN / program, [str(BIN / program), *arguments])


def _call(program: str, *arguments: str) -> int:
    print(f"$ {' '.join([program, *arguments])}", flush=True)
    return subprocess.call([BIN / program, *arguments], cwd=ROOT)


# --------------------------------------------------------------------------------------- the chores


def run(arguments: list[str]) -> int:
    """start broker, endpoint, worker and beat here, with a trigger that fires every 10 s; Ctrl-C ends all"""
    install("run")
    _become("triggerbeat", "up", "--demo", *arguments)


def test(arguments: list[str]) -> int:
    """run all tests; ARGS='-k cron' passes options to pytest"""
    install("test")
    _become("pytest", *(arguments or SIDE_BY_SIDE))


def lint(arguments: list[str]) -> int:
    """check style, types, and who may import whom"""
    install("test")
    return max(_call(*command) for command in LINTERS)


def check(arguments: list[str]) -> int:
    """lint and test: what has to pass before a change goes in"""
    found = lint([])
    if found:
        print("\nThe linters above found something; the tests run all the same.", flush=True)
    return max(found, _call("pytest", *(arguments or SIDE_BY_SIDE)))


def bench(arguments: list[str]) -> int:
    """measure, and print the figures beside the machine's own limits"""
    install("test")
    _become("python", "-m", "benchmarks", *arguments)


def oracle(arguments: list[str]) -> int:
    """hold the time engine against Debian's main loop, 10,000,000 occurrences; ARGS='--seed 2'"""
    install("test")
    _become("python", "-m", "tests.oracle", *arguments)


def simulate(arguments: list[str]) -> int:
    """run the product in virtual time, with faults, for 10,000 seeds; ARGS='--seed 17' tells one's story"""
    install("test")
    _become("python", "-m", "tests.simulation", *arguments)


def faults(arguments: list[str]) -> int:
    """run real processes under faults, for an hour; ARGS='--seed 1 --only worker-kill'"""
    install("test")
    _become("python", "-m", "tests.faults", *arguments)


def soak(arguments: list[str]) -> int:
    """run real processes at full speed for an hour: is what they take level? ARGS='--minutes 3'"""
    install("test")
    _become("python", "-m", "tests.soak", *arguments)


def lock(arguments: list[str]) -> int:
    """renew requirements/*.txt from pyproject.toml; ARGS=--upgrade for the newest versions"""
    uv = shutil.which("uv") or str(BIN / "uv")
    if not Path(uv).exists():  # not from the lock: this must work when the lock does not
        if not PYTHON.exists():
            _make_environment()
        _pip("install", "uv")
    build_tools = "\n".join(tomllib.loads(PYPROJECT.read_text())["build-system"]["requires"])
    for tools, path in LOCKS.items():
        extras = [option for extra in EXTRAS[tools] for option in ("--extra", extra)]
        # For every platform, and every Python from our oldest. No index is named: each machine has its own.
        form = ["--universal", "--python-version=3.11", "--generate-hashes", "--no-emit-index-url"]
        together = ["--constraints", str(LOCKS["run"].relative_to(ROOT))] if tools == "test" else []
        command = [uv, "pip", "compile", "--quiet", "--custom-compile-command=make lock", *form, *together]
        command += [*extras, *arguments, "--output-file", str(path.relative_to(ROOT)), "pyproject.toml", "-"]
        subprocess.run(command, cwd=ROOT, input=build_tools, text=True, check=True, stdout=subprocess.DEVNULL)
    return 0


def venv(arguments: list[str]) -> int:
    """make .venv with everything for work on the project"""
    install("test")
    return 0


def clean(arguments: list[str]) -> int:
    """remove what the other targets made, but no database"""
    _remove_environment()
    for name in MADE_HERE:
        shutil.rmtree(ROOT / name, ignore_errors=True)
    for cache in ROOT.rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)
    return 0


def usage(arguments: list[str]) -> int:
    """list what there is"""
    print("make TARGET, or python3 dev.py TARGET:\n")
    for name, chore in CHORES.items():
        print(f"  {name:<8} {chore.__doc__}")
    return 0


CHORES: dict[str, Callable[[list[str]], int]] = {
    "run": run, "test": test, "lint": lint, "check": check, "bench": bench,
    "simulate": simulate, "oracle": oracle, "faults": faults, "soak": soak, "lock": lock, "venv": venv,
    "clean": clean, "help": usage,
}  # fmt: skip


def main() -> int:
    name, *arguments = sys.argv[1:] or ["help"]
    if name not in CHORES:
        print(f"dev.py: there is no {name!r}; python3 dev.py lists what there is", file=sys.stderr)
        return 2
    try:
        return CHORES[name](arguments)
    except Failure as failure:
        print(f"\n{failure}", file=sys.stderr)
    except subprocess.CalledProcessError as failure:
        print(failure, file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
