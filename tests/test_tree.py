"""The task tree as users see it: names, defaults, graph, dry runs, and what a listing costs."""

from __future__ import annotations

import compileall
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from invoke.collection import Collection
from invoke.config import Config

from tasks.stages import Executor, Stage, _named

HERE = Path(__file__).parents[1]

# What the README, CI services and people's fingers rely on. Names may be added, none may go.
TREE: Mapping[str, tuple[str, set[str]]] = {
    "": ("", {"clean", "plan"}),
    "test": ("all", {"image", "db", "unit", "integration", "all"}),
    "build": ("wheels", {"base", "services", "wheels"}),
    "release": (
        "acceptance",
        {"settings", "image", "check", "db", "bootstrap", "start", "url", "logs", "stop",
         "acceptance"},
    ),
    "acceptance": ("run", {"image", "run"}),
}  # fmt: skip


# --- the commands --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which nothing but `variables` decides, and no engine answers."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "DOCKER_HOST": "unix:///nonexistent", **variables}


def invoke(*arguments: str, folder: Path, **variables: str) -> Result:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", *arguments],
        cwd=folder,
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what is needed of this checkout, compiled, and nothing that was produced in it."""
    root = tmp_path_factory.mktemp("original")
    ignore = shutil.ignore_patterns("__pycache__", "*.secrets.env")
    for name in ("tasks", "env", "compose", "app"):
        shutil.copytree(HERE / name, root / name, ignore=ignore)
    for name in ("tasks.py", "invoke.yaml", "bootstrap", "requirements.lock"):
        shutil.copy2(HERE / name, root)
    compileall.compile_dir(root / "tasks", quiet=1)
    return root


@pytest.fixture
def checkout(original: Path, tmp_path: Path) -> Path:
    """Return a fresh checkout."""
    return Path(shutil.copytree(original, tmp_path / "a fresh checkout"))


@cache
def listed(folder: Path) -> dict[str, Any]:
    result = invoke("--list", "-F", "json", folder=folder)
    assert (result.code, result.err) == (0, "")
    tree: dict[str, Any] = json.loads(result.out)
    return tree


# --- names ---------------------------------------------------------------------------------------


def test_the_listing_holds_these_names_and_defaults() -> None:
    tree = listed(HERE)
    folders = {folder["name"]: folder for folder in tree["collections"]}
    assert set(folders) == {*TREE, "publish"} - {""}
    for name, (default, tasks) in TREE.items():
        folder = folders[name] if name else tree
        assert {task["name"] for task in folder["tasks"]} == tasks
        assert (folder["default"] or "") == default
        assert [task["name"] for task in folder["tasks"] if task["aliases"]] == []
    assert folders["publish"]["default"]


def test_the_listing_is_the_same_from_below() -> None:
    assert listed(HERE / "compose" / "app") == listed(HERE)


def test_everything_has_one_line_that_says_what_it_does() -> None:
    tree = listed(HERE)
    things = [*tree["tasks"], *tree["collections"]]
    for folder in tree["collections"]:
        things += folder["tasks"]
    for thing in things:
        assert re.fullmatch(r"[A-Z][^\n]*\.", thing["help"]), thing


def test_another_folder_has_no_tree(tmp_path: Path) -> None:
    result = invoke("--list", folder=tmp_path)
    assert result.code == 1
    assert "Can't find any collection named 'tasks'" in result.err


# --- what a listing costs ------------------------------------------------------------------------

LOADED = """
import sys
from invoke.main import program
try:
    program.run(sys.argv)
finally:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""
HEAVY = {"docker", "pydantic", "rich", "requests", "tenacity", "junitparser", "oras", "urllib3",
         "cryptography", "pytest", "filelock", "packaging"}  # fmt: skip


def loaded(*arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        cwd=HERE,
        env=environment({}),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split())


def test_a_listing_loads_nothing_that_it_does_not_need() -> None:
    modules = loaded("--list")
    assert "tasks" in modules
    assert modules & HEAVY == set()


def test_a_task_does_load_them() -> None:
    assert loaded("--dry", "release.settings") & HEAVY >= {"docker", "pydantic", "rich"}


# --- the graph -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree() -> Collection:
    """Return the tree as tasks.py assembles it."""
    spec = importlib.util.spec_from_file_location("tree", HERE / "tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    namespace: Collection = module.namespace
    return namespace


def order(tree: Collection, *goals: str) -> list[str]:
    """Return the names of goals and of all that they need, as they would run one by one."""
    names = dict(_named(tree))
    executor = Executor(tree, Config())
    calls = executor.dedupe(executor.expand_calls(executor.normalize(goals)))
    return [names[call.task] for call in calls]


def test_every_task_is_a_stage_with_nothing_but_the_run(tree: Collection) -> None:
    for task, name in _named(tree):
        assert isinstance(task, Stage), name
        assert len(inspect.signature(task.body).parameters) == 1, name
        assert task.post == [], name  # none would run after a failure


def test_what_is_needed_is_in_the_tree(tree: Collection) -> None:
    names = dict(_named(tree))
    for task, name in _named(tree):
        assert isinstance(task, Stage)
        assert [need for need in task.needs if need not in names] == [], name


def test_each_comes_once_and_after_what_it_needs(tree: Collection) -> None:
    tasks = {name: task for task, name in _named(tree)}
    names = dict(_named(tree))
    for goal in tasks:
        whole = order(tree, goal)
        assert whole[-1] == goal
        assert len(set(whole)) == len(whole)
        for place, name in enumerate(whole):
            task = tasks[name]
            assert isinstance(task, Stage)
            assert {names[need] for need in task.needs} <= set(whole[:place]), name


def test_the_release_needs_all_there_is_to_test(tree: Collection) -> None:
    assert set(order(tree, "release.acceptance")) == {
        "build.base", "build.services", "build.wheels",
        "test.image", "test.db", "test.unit", "test.integration", "test.all",
        "release.image", "release.check", "release.db", "release.bootstrap", "release.start",
        "acceptance.image", "acceptance.run", "release.acceptance",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("build.base", "test.image"),
        ("test.db", "test.integration"),
        ("build.wheels", "release.image"),
        ("release.image", "release.check"),
        ("release.check", "release.bootstrap"),
        ("release.db", "release.bootstrap"),
        ("release.bootstrap", "release.start"),
        ("release.start", "acceptance.run"),
        ("acceptance.image", "acceptance.run"),
        ("acceptance.run", "release.acceptance"),
        ("test.unit", "release.acceptance"),
        ("test.integration", "release.acceptance"),
    ],
)
def test_the_steps_of_the_talk_follow_one_another(
    tree: Collection, before: str, after: str
) -> None:
    assert before in order(tree, after)
    assert after not in order(tree, before)


def test_unit_tests_need_no_database(tree: Collection) -> None:
    assert set(order(tree, "test.unit")) == {"build.base", "test.image", "test.unit"}


def test_looking_and_tidying_need_nothing(tree: Collection) -> None:
    for name in ("release.settings", "release.url", "release.logs", "release.stop", "clean"):
        assert order(tree, name) == [name]


def test_the_same_need_of_two_goals_comes_once(tree: Collection) -> None:
    whole = order(tree, "test", "acceptance")
    assert whole.count("build.base") == 1
    assert {"test.image", "acceptance.image", "release.image"} <= set(whole)


# --- dry -----------------------------------------------------------------------------------------

needs_compose = pytest.mark.skipif(
    subprocess.run(
        ["sh", "-c", "docker compose version"], capture_output=True, check=False
    ).returncode
    != 0,
    reason="docker compose is not installed",
)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder, but for Python's own caches."""
    return {
        str(path): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


@needs_compose
def test_a_dry_run_shows_what_would_be_done_and_writes_nothing(checkout: Path) -> None:
    before = contents(checkout)
    result = invoke("--dry", "release.acceptance", folder=checkout)
    assert (result.code, result.err) == (0, "")
    assert contents(checkout) == before

    argvs = re.findall(r"^[a-z]+\.[a-z]+: \$ (docker .*)$", result.out, re.MULTILINE)
    started = {word for argv in argvs if re.search(" (up|create) ", argv) for word in argv.split()}
    assert started >= {"db", "unit", "integration", "check", "check-start", "collectstatic",
                       "migrate", "app", "nginx", "test", "test-restarted"}  # fmt: skip
    built = {word for argv in argvs if " bake " in argv for word in argv.split()}
    assert built >= {"db", "nginx", "test", "wheelhouse", "app", "check", "acceptance"}
    assert argvs[0].startswith("docker pull")

    told = re.findall(r"^([a-z]+\.[a-z]+): ", result.out, re.MULTILINE)
    for before_, after in [
        ("build.base", "test.unit"),
        ("test.db", "test.integration"),
        ("test.image", "release.check"),  # built with the first
        ("release.check", "release.bootstrap"),
        ("release.db", "release.bootstrap"),
        ("release.bootstrap", "release.start"),
        ("release.start", "acceptance.run"),
    ]:
        assert told.index(before_) < told.index(after)
    ends = [line for line in result.out.splitlines() if line.startswith("remove all containers")]
    assert len(ends) == 2
    assert result.out.splitlines()[-2:] == ends


@needs_compose
def test_a_dry_run_of_a_removal_removes_nothing(checkout: Path) -> None:
    (checkout / "target").mkdir()
    (checkout / "target" / "file").touch()
    result = invoke("--dry", "release.stop", "clean", folder=checkout)
    assert result.code == 0
    assert "release.stop: remove all containers, networks, volumes of" in result.out
    assert "clean: remove everything with the labels" in result.out
    assert (checkout / "target" / "file").exists()


def test_what_is_not_dry_needs_the_engine(checkout: Path) -> None:
    result = invoke("release.stop", folder=checkout)
    assert result.code == 69
    assert result.out == ""
    assert "unix:///nonexistent" in result.err
    assert "hint: " in result.err
    (record,) = (checkout / "target" / "runs").glob("*/run.json")
    assert json.loads(record.read_text())["exit_code"] == 69


# --- settings ------------------------------------------------------------------------------------


def test_an_environment_that_is_not_there(checkout: Path) -> None:
    result = invoke("release.settings", "clean", folder=checkout, INVOKE_ENV="nope")
    assert result.code == 78
    assert result.out == ""
    assert result.err.splitlines() == [
        "failed: there is no environment 'nope': its file in env/ is missing",
        "  environments: ci, local, production",
        "hint: choose one by INVOKE_ENV=<name>, or make env/<name>.env (see env/example.env)",
    ]
    assert not (checkout / "target").exists()


def test_settings_are_shown_with_their_sources_and_secrets_masked(checkout: Path) -> None:
    given = {"INVOKE_ENV": "ci", "JOBS": "7", "APP_DB_PASSWORD": "tr0ub4dor", "APP_X": "y"}
    result = invoke("release.settings", folder=checkout, **given)
    assert result.code == 0
    assert "tr0ub4dor" not in result.out + result.err
    lines = result.out.splitlines()
    for line in (
        "JOBS=7  # process environment",
        "APP_DB_PASSWORD=********  # process environment",
        "APP_SECRET_KEY=********  # generated",
        "APP_X=y  # process environment",
        "KEEP=never  # default",
    ):
        assert line in lines
    assert re.search(r"^LOCK_TIMEOUT=600  # env/ci\.env:\d+$", result.out, re.MULTILINE)


# --- usage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("nope",), ("release.nope",), ("test.unit", "--nope")])
def test_a_command_line_that_makes_no_sense_ends_with_2(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments, folder=HERE)
    assert result.code == 2
    assert "nope" in result.err
    assert result.out == ""


# --- nobody reads --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reader has gone", "closed"])
@pytest.mark.parametrize(
    "arguments",
    [("--list",), ("--dry", "release.settings")],
    ids=" ".join,
)
def test_nobody_reads_standard_output(arguments: tuple[str, ...], how: str) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {">&-" if how == "closed" else ""}', "sh",
             sys.executable, "-m", "invoke", *arguments],
            cwd=HERE,
            env=environment({}),
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
