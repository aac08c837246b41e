"""The house rules, kept by tests: lint, types, walls, and what each room may and may not do."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HERE = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SCRIPTS = ["bootstrap", ".ci/run", "compose/db/start-db"]

Check = Callable[[ast.AST], Iterator[str]]


# --- the tools -----------------------------------------------------------------------------------


def passes(*command: str, folder: Path = HERE) -> None:
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    passes("ruff", "check", ".")


def test_everything_is_formatted() -> None:
    passes("ruff", "format", "--check", ".")


def test_types_are_right() -> None:
    passes("mypy")


def test_walls_stand() -> None:
    passes("lint-imports")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the collection, to spoil."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(HERE / "tasks", tmp_path / "tasks", ignore=ignore)
    shutil.copy(HERE / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "command"),
    [
        ("tasks/errors.py", "import os, sys", ("ruff", "check", "tasks")),
        ("tasks/errors.py", "x  =  1", ("ruff", "format", "--check", "tasks")),
        ("tasks/engine/compose.py", "import invoke", ("lint-imports",)),
        ("tasks/engine/compose.py", "import tasks.release", ("lint-imports",)),
        ("tasks/settings.py", "import tasks.engine.compose", ("lint-imports",)),
        ("tasks/errors.py", "import tasks.envfile", ("lint-imports",)),
        ("tasks/build.py", "import tasks.publish", ("lint-imports",)),
    ],
)
def test_they_would_find_something(
    copy: Path, file: str, line: str, command: tuple[str, ...]
) -> None:
    with (copy / file).open("a", encoding="utf-8") as spoiled:
        spoiled.write(f"{line}\n")
    with pytest.raises(AssertionError):
        passes(*command, folder=copy)


def test_in_a_copy_that_is_not_spoiled_they_find_nothing(copy: Path) -> None:
    for command in (("ruff", "check", "tasks"), ("ruff", "format", "--check", "tasks")):
        passes(*command, folder=copy)
    passes("lint-imports", folder=copy)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing(script: str) -> None:
    done = subprocess.run(
        ["shellcheck", "--severity=style", script],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_run(script: str) -> None:
    assert (HERE / script).read_bytes().startswith(b"#!/bin/sh\n")
    if not script.startswith("compose/"):  # COPY --chmod makes those runnable
        assert (HERE / script).stat().st_mode & 0o111


# --- what a room may do --------------------------------------------------------------------------


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for the expression of that name; empty for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the full names of what is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def prints(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func) in {
            "print", "sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer.write",
            "builtins.print", "os.write", "pprint.pprint",
        }:  # fmt: skip
            yield dotted(node.func)


def reads_the_environment(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if dotted(node) in {"os.environ", "os.environb", "os.getenv", "os.getenvb"}:
            yield dotted(node)
    yield from (name for name in imported(tree) if re.match(r"os\.(environ|getenv)", name))


def starts_processes(tree: ast.AST) -> Iterator[str]:
    started = re.compile(r"os\.(system|popen|fork|forkpty|exec\w+|spawn\w+|posix_spawn\w*)")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and started.fullmatch(dotted(node.func)):
            yield dotted(node.func)
    for name in imported(tree):
        package = name.split(".")[0]
        if package in {"subprocess", "pty", "multiprocessing", "asyncio"} or started.match(name):
            yield name


def users(check: Check) -> dict[str, list[str]]:
    """Return what a check finds in the rooms, by room."""
    found = {}
    for path in [HERE / "tasks.py", *(HERE / "tasks").rglob("*.py")]:
        names = list(check(ast.parse(path.read_text(encoding="utf-8"))))
        if names:
            found[str(path.relative_to(HERE))] = names
    return found


def test_one_room_prints() -> None:
    found = users(prints)
    # The end that is forced waits for no lock, so not for the console's either.
    assert found.pop("tasks/stages.py", ["print"]) == ["print"]
    assert list(found) == ["tasks/engine/console.py"]


def test_one_room_starts_processes() -> None:
    assert list(users(starts_processes)) == ["tasks/engine/process.py"]


def test_the_environment_is_handed_over_in_one_place() -> None:
    found = users(reads_the_environment)
    assert found.pop("tasks/stages.py") == ["os.environ"]
    assert set(found) <= {"tasks/settings.py", "tasks/envfile.py"}


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (prints, "print('x')"),
        (prints, "def f():\n    sys.stdout.write('x')"),
        (reads_the_environment, "os.environ['X']"),
        (reads_the_environment, "x = os.environ.get('X')"),
        (reads_the_environment, "os.getenv('X')"),
        (reads_the_environment, "from os import environ"),
        (starts_processes, "import subprocess"),
        (starts_processes, "from subprocess import run"),
        (starts_processes, "os.system('x')"),
        (starts_processes, "os.execvp('x', [])"),
        (starts_processes, "from os import system"),
        (starts_processes, "def f():\n    import subprocess as s"),
    ],
)
def test_a_room_that_does_it_would_be_found(check: Check, source: str) -> None:
    assert list(check(ast.parse(source)))


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (prints, "console.print('x'); printed = 1"),
        (reads_the_environment, "environ['X']; tools.environ.get('X'); os.getuid()"),
        (starts_processes, "processes.run(['x']); os.killpg(1, 2); os._exit(1)"),
    ],
)
def test_one_that_does_not_would_not(check: Check, source: str) -> None:
    assert list(check(ast.parse(source))) == []


# --- what the rooms know -------------------------------------------------------------------------

# The sample application's name and what it is made of; a team's own is made of something else.
SAMPLE = re.compile(
    r"\b(django|gunicorn|postgres\w*|psql|nginx|todo|manage\.py|collectstatic|migrate)\b",
    re.IGNORECASE,
)


def test_the_tasks_do_not_know_the_application() -> None:
    found = [
        f"{path.relative_to(HERE)}:{number}: {line.strip()}"
        for path in [HERE / "tasks.py", HERE / "invoke.yaml", *(HERE / "tasks").rglob("*.py")]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if SAMPLE.search(line)
    ]
    assert found == []


def test_one_that_knew_it_would_be_found() -> None:
    for line in ("run('psql -c')", "# Django's", "image = 'nginx:1'", "POSTGRES = 1", "todo.wsgi"):
        assert SAMPLE.search(line)
    # settings are named for roles, and may well be called like what plays them
    assert not SAMPLE.search("nginx_image: _OptionalImage = ''")


def test_every_room_is_on_the_map() -> None:
    text = (HERE / "tasks" / "__init__.py").read_text(encoding="utf-8")
    for path in sorted((HERE / "tasks").rglob("*.py")):
        if path.stem != "__init__":
            assert f"`{path.stem}`" in text, f"tasks/__init__.py does not mention {path.stem}"


# --- what is installed ---------------------------------------------------------------------------


def locked(text: str) -> dict[str, tuple[str, int]]:
    """Return the version and the number of hashes of each package of a lock file."""
    entries = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*$", "", text)).splitlines()
    found: dict[str, tuple[str, int]] = {}
    for entry in filter(None, map(str.strip, entries)):
        name, version = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?==([\w.+!]+)\b.*", entry).groups()  # type: ignore[union-attr]
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}(?!\w)", entry)
        found[canonicalize_name(name)] = (version, len(hashes))
    return found


LOCK = locked((HERE / "requirements.lock").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_locked_with_its_hashes() -> None:
    assert len(LOCK) > 20
    assert [name for name, (_, hashes) in LOCK.items() if not hashes] == []


@pytest.mark.parametrize(
    "text",
    [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]],
)
def test_what_the_project_needs_is_locked(text: str) -> None:
    requirement = Requirement(text)
    version, _ = LOCK[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(Version(version), prereleases=True)


def test_a_package_without_hashes_would_be_found() -> None:
    digest = "0" * 64
    text = f"a==1.0 \\\n    --hash=sha256:{digest} \\\n    --hash=sha256:{digest}\nb-c[x]==2 ; x\n"
    assert locked(text) == {"a": ("1.0", 2), "b-c": ("2", 0)}
