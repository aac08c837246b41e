"""What results depend on: whatever of it changes is noticed, and told without its value."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks.engine import inputs, receipts, shelf, wheelhouse
from tasks.engine.api import Image
from tasks.engine.checkout import Checkout
from tasks.engine.inputs import Files, Inputs, Ledger, differences, fingerprint, gather, hash_files
from tasks.engine.receipts import Thing
from tasks.engine.source import Source
from tasks.engine.tools import Tools
from tasks.errors import Misconfigured
from tasks.settings import load

if TYPE_CHECKING:
    from tests.engine.conftest import Workshop

Reads = list[str]
Settings = dict[str, Any]


def put(path: Path, content: str = "content\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a checkout with some of what counts, and some of what does not."""
    root = tmp_path / "checkout"
    for path in ("app/todo/views.py", "app/tests/test_views.py", "compose/release.yaml",
                 "tasks/stages.py", "tasks.py", "invoke.yaml", "requirements.lock",
                 "README.md", "tests/test_stages.py", "env/local.env"):  # fmt: skip
        put(root / path, f"content of {path}\n")
    (root / "target").mkdir()
    return root


def read(root: Path) -> Files:
    return hash_files(root, root / "target" / "files.json")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Note the names of the files that are read; the folders are left out."""
    names: Reads = []
    really = inputs._file_hash

    def file_hash(path: str, status: os.stat_result) -> str:
        if not stat.S_ISDIR(status.st_mode):
            names.append(Path(path).name)
        return really(path, status)

    monkeypatch.setattr(inputs, "_file_hash", file_hash)
    return names


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all files count as not changed for a while."""
    monkeypatch.setattr(inputs, "_RACY_SECONDS", -3600.0)


def until_stamped(path: Path, change: Callable[[], object]) -> None:
    """Change a file, again if need be, until the file system's clock has gone on."""
    before = path.lstat().st_ctime_ns
    while path.lstat().st_ctime_ns == before:
        change()


# --- files: what counts --------------------------------------------------------------------------


def test_everything_below_the_paths_and_nothing_else(root: Path) -> None:
    assert sorted(read(root).hashes) == [
        "app", "app/tests", "app/tests/test_views.py", "app/todo", "app/todo/views.py",
        "compose", "compose/release.yaml", "invoke.yaml", "requirements.lock",
        "tasks", "tasks.py", "tasks/stages.py",
    ]  # fmt: skip


def test_unchanged_it_is_the_same_here_and_elsewhere(root: Path) -> None:
    elsewhere = root.parent / "elsewhere"
    shutil.copytree(root, elsewhere)
    assert read(root) == read(root)
    assert read(root).hashes == read(elsewhere).hashes


CHANGES: dict[str, Callable[[Path], object]] = {
    "app/todo/views.py": lambda path: path.write_text("other\n"),
    "app/tests/test_views.py": lambda path: path.write_text(""),
    "compose/release.yaml": lambda path: path.chmod(0o755),
    "tasks/stages.py": lambda path: path.unlink(),
    "tasks.py": lambda path: path.rename(path.with_name("tasks.old")),
    "invoke.yaml": lambda path: put(path.with_name("other")).replace(path),
    "requirements.lock": lambda path: path.write_text(path.read_text() + "\n"),
    "app/new.py": put,
    "compose/db/start-db": put,
    "tasks/engine/new.py": put,
    "app/empty": lambda path: path.mkdir(),
    "app/link": lambda path: path.symlink_to("todo"),
    "app/dangling": lambda path: path.symlink_to("nowhere"),
    "app/pipe": os.mkfifo,
    "app/todo": lambda path: path.chmod(0o700),
    "app": shutil.rmtree,
}


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("path", CHANGES)
def test_a_change_is_noticed(root: Path, path: str) -> None:
    before = read(root).hashes
    CHANGES[path](root / path)
    after = read(root).hashes
    assert before.get(path) != after.get(path)


@pytest.mark.parametrize(
    "path", ["README.md", "tests/test_stages.py", "env/local.env", "target/x", "app2/x", ".env"]
)
def test_a_change_elsewhere_is_not(root: Path, path: str) -> None:
    before = read(root)
    put(root / path, "other\n")
    assert read(root) == before


@pytest.mark.parametrize("cache", ["__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"])
@pytest.mark.parametrize("folder", ["app", "app/todo", "compose", "tasks/engine"])
def test_caches_are_no_change(root: Path, folder: str, cache: str) -> None:
    (root / folder).mkdir(exist_ok=True)
    before = read(root)
    put(root / folder / cache / "deep" / "x.pyc")
    assert read(root) == before


@pytest.mark.parametrize("name", ["pycache", "__pycache__2", ".cache", "x.pyc", ".hidden"])
def test_what_only_looks_like_a_cache_is_a_change(root: Path, name: str) -> None:
    before = read(root)
    put(root / "app" / name / "x")
    assert read(root) != before


def test_what_git_ignores_counts_since_builds_copy_it(root: Path) -> None:
    put(root / "app" / ".gitignore", "*.sqlite3\n")
    put(root / ".gitignore", "/app/local.py\n")
    before = read(root).hashes
    put(root / "app" / "db.sqlite3")
    put(root / "app" / "local.py")
    assert sorted(read(root).hashes.keys() - before.keys()) == ["app/db.sqlite3", "app/local.py"]


def test_where_a_link_leads_is_a_change(root: Path) -> None:
    link = root / "app" / "link"
    link.symlink_to("todo")
    before = read(root).hashes
    link.unlink()
    link.symlink_to("tests")
    assert read(root).hashes["app/link"] != before["app/link"]


def test_a_file_is_not_the_link_that_leads_to_the_same_content(root: Path) -> None:
    put(root / "app" / "one", "two")
    before = read(root).hashes
    (root / "app" / "one").unlink()
    (root / "app" / "one").symlink_to("two")
    assert read(root).hashes["app/one"] != before["app/one"]


def test_names_that_are_no_text(root: Path) -> None:
    before = read(root).hashes
    name = os.fsencode(root / "app") + b"/\xff\n"
    Path(os.fsdecode(name)).write_text("content")
    after = read(root)
    assert len(after.hashes) == len(before) + 1
    assert read(root) == after


# --- files: links that are followed --------------------------------------------------------------


@pytest.mark.parametrize("name", ["app", "compose", "tasks"])
def test_a_folder_may_be_elsewhere(root: Path, name: str) -> None:
    elsewhere = root.parent / "shared" / name
    elsewhere.parent.mkdir()
    (root / name).rename(elsewhere)
    (root / name).symlink_to(elsewhere)
    before = read(root).hashes
    file = put(elsewhere / "deep" / "file")
    assert sorted(read(root).hashes.keys() - before.keys()) == [
        f"../shared/{name}/deep", f"../shared/{name}/deep/file",
    ]  # fmt: skip
    before = read(root).hashes
    file.write_text("other\n")
    assert read(root).hashes != before


def test_a_checkout_may_be_reached_by_a_link(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    assert read(link).hashes == read(root).hashes


def test_what_links_of_compose_lead_to_is_read_as_compose_reads_it(root: Path) -> None:
    file = put(root.parent / "shared" / "release.yaml")
    folder = root.parent / "shared" / "db"
    put(folder / "Dockerfile")
    (root / "compose" / "shared.yaml").symlink_to(file)
    (root / "compose" / "db").symlink_to(folder)
    before = read(root).hashes
    file.write_text("other\n")
    (folder / "Dockerfile").write_text("other\n")
    after = read(root).hashes
    changed = sorted(name for name in after if after[name] != before[name])
    assert changed == ["../shared/db/Dockerfile", "../shared/release.yaml"]


def test_links_of_the_application_are_copied_as_they_are(root: Path) -> None:
    media = put(root.parent / "media" / "film")
    (root / "app" / "media").symlink_to(media.parent)
    before = read(root)
    media.write_text("another film")
    assert read(root) == before


@pytest.mark.parametrize("target", ["..", ".", "../compose", "../..", "/", "loop", "../target"])
def test_links_in_a_circle_come_to_an_end(root: Path, target: str) -> None:
    (root / "compose" / "loop").symlink_to(target)
    names = read(root).hashes
    assert "compose/loop" in names
    assert "README.md" not in names


# --- files: what is read again -------------------------------------------------------------------


@pytest.mark.usefixtures("settled")
def test_what_the_file_system_calls_unchanged_is_not_read_again(root: Path, reads: Reads) -> None:
    first = read(root)
    assert len(reads) == len(first.stamps) == 7
    reads.clear()
    assert read(root) == first
    assert reads == []
    put(root / "app" / "todo" / "views.py", "other\n")
    read(root)
    assert reads == ["views.py"]


@pytest.mark.usefixtures("settled")
def test_same_size_and_time_set_back_is_noticed_all_the_same(root: Path) -> None:
    path = root / "app" / "todo" / "views.py"
    os.utime(path, (1_000_000_000, 1_000_000_000))
    before = read(root)
    content = path.read_text().replace("views", "viwes")

    def change() -> None:
        path.write_text(content)
        os.utime(path, (1_000_000_000, 1_000_000_000))

    size = path.stat().st_size
    until_stamped(path, change)
    assert (path.stat().st_size, path.stat().st_mtime) == (size, 1_000_000_000)
    assert read(root).hashes["app/todo/views.py"] != before.hashes["app/todo/views.py"]


@pytest.mark.usefixtures("settled")
def test_another_file_of_the_same_times_put_in_its_place_is_noticed(root: Path) -> None:
    path = root / "app" / "todo" / "views.py"
    other = put(root / "other", path.read_text().replace("views", "viwes"))
    before = read(root)
    shutil.copystat(path, other)
    other.replace(path)
    assert read(root).hashes["app/todo/views.py"] != before.hashes["app/todo/views.py"]


def test_what_has_just_changed_is_read_again(root: Path, reads: Reads) -> None:
    first = read(root)
    reads.clear()
    assert read(root) == first
    assert len(reads) == len(first.stamps)
    assert not (root / "target" / "files.json").exists()


def test_what_has_not_just_changed_is_not(
    root: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = time.time
    monkeypatch.setattr(time, "time", lambda: really() + 10)
    read(root)
    reads.clear()
    monkeypatch.setattr(time, "time", really)
    read(root)
    assert reads == []


@pytest.mark.parametrize("hours", [-1000, 1000])
def test_a_clock_that_was_moved_hides_no_change(
    root: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    really = time.time
    path = root / "app" / "todo" / "views.py"
    before = read(root)
    monkeypatch.setattr(time, "time", lambda: really() + hours * 3600)
    assert read(root) == before
    until_stamped(path, lambda: path.write_text("x" * path.stat().st_size))
    assert read(root).hashes["app/todo/views.py"] != before.hashes["app/todo/views.py"]
    monkeypatch.setattr(time, "time", really)
    assert read(root).hashes["app/todo/views.py"] != before.hashes["app/todo/views.py"]


@pytest.mark.parametrize("when", [0, 1, 4_000_000_000])
def test_times_alone_change_no_hash(root: Path, when: int) -> None:
    before = read(root)
    for name in before.stamps:
        os.utime(root / name, (when, when))
    assert read(root).hashes == before.hashes


@pytest.mark.usefixtures("settled")
def test_what_was_changed_and_taken_back_has_been_touched(root: Path) -> None:
    path = root / "app" / "todo" / "views.py"
    before = read(root)
    content = path.read_text()

    def change_and_take_back() -> None:
        path.write_text("other")
        path.write_text(content)

    until_stamped(path, change_and_take_back)
    after = read(root)
    assert after.hashes == before.hashes
    assert after.stamps != before.stamps


WRONG: tuple[object, ...] = (
    None, 7, "hash", [], [[]], {}, {"0": 1}, [[1, 2, 3], "0" * 64], [1, 2, 3],
)  # fmt: skip
DAMAGE = {
    "gone": None,
    "empty": b"",
    "cut off": b'{"tasks.py": [[',
    "no text": b"\xff\xfe",
    "a list": b"[1, 2]",
    "a word": b'"tasks.py"',
    "nothing": b"null",
    **{
        f"each {wrong!r}": json.dumps(dict.fromkeys(["tasks.py", "invoke.yaml"], wrong)).encode()
        for wrong in WRONG
    },
}


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_memory_is_worth_nothing_and_mended(
    root: Path, reads: Reads, damage: str
) -> None:
    first = read(root)
    memory = root / "target" / "files.json"
    good = json.loads(memory.read_text())
    reads.clear()
    content = DAMAGE[damage]
    if content is None:
        memory.unlink()
    else:
        memory.write_bytes(content)
    assert read(root) == first
    assert len(reads) == len(first.stamps)
    assert json.loads(memory.read_text()) == good


@pytest.mark.usefixtures("settled")
def test_a_memory_whose_hashes_are_no_texts_is_not_believed(root: Path, reads: Reads) -> None:
    first = read(root)
    memory = root / "target" / "files.json"
    known = json.loads(memory.read_text())
    memory.write_text(json.dumps({name: [stamp, 7] for name, (stamp, _) in known.items()}))
    reads.clear()
    assert read(root) == first
    assert len(reads) == len(first.stamps)


@pytest.mark.usefixtures("settled")
def test_the_memory_of_another_checkout_is_not_believed(root: Path, reads: Reads) -> None:
    elsewhere = root.parent / "elsewhere"
    shutil.copytree(root, elsewhere)
    read(root)
    shutil.copy2(root / "target" / "files.json", elsewhere / "target" / "files.json")
    put(elsewhere / "tasks.py", "CONTENT OF tasks.py\n")
    reads.clear()
    after = read(elsewhere)
    assert len(reads) == len(after.stamps)


def test_without_a_place_to_remember_nothing_is_left(root: Path) -> None:
    (root / "target").rmdir()
    assert read(root).hashes
    assert not (root / "target").exists()


@pytest.mark.usefixtures("settled")
def test_nothing_half_written_is_left_beside_the_memory(root: Path) -> None:
    read(root)
    assert [path.name for path in (root / "target").iterdir()] == ["files.json"]


# --- files: while others are at work -------------------------------------------------------------


def test_files_that_vanish_while_we_look_are_no_traceback(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.lstat
    seen: list[str] = []

    def lstat(path: str) -> os.stat_result:
        if path.endswith(("views.py", "app/tests")) and path not in seen:
            seen.append(path)
            Path(path).rename(root / str(len(seen)))
        return really(path)

    monkeypatch.setattr(os, "lstat", lstat)
    names = read(root).hashes
    assert len(seen) == 2
    assert not {"app/todo/views.py", "app/tests"} & names.keys()
    assert "tasks.py" in names


def test_a_file_that_vanishes_before_it_is_read_is_a_change(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read(root).hashes
    really = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "views.py":
            path.unlink()
        return really(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert read(root).hashes != before


def test_what_may_not_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_bytes(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(Misconfigured, match="may not be read") as caught:
        read(root)
    assert str(root) in caught.value.message


def test_ten_thousand_files(root: Path, monkeypatch: pytest.MonkeyPatch, reads: Reads) -> None:
    monkeypatch.setattr(inputs, "_RACY_SECONDS", -3600.0)
    for folder in range(100):
        (root / "app" / str(folder)).mkdir()
        for number in range(100):
            (root / "app" / str(folder) / str(number)).write_text(f"{folder} {number}")
    first = read(root)
    assert len(first.stamps) == 10_007
    reads.clear()
    (root / "app" / "42" / "42").write_text("other")
    after = read(root)
    assert reads == ["42"]
    changed = [name for name in after.hashes if after.hashes[name] != first.hashes[name]]
    assert changed == ["app/42/42"]


# --- differences ---------------------------------------------------------------------------------


def test_differences_are_named_and_no_value_is_shown() -> None:
    old = Inputs(
        {"commit": "old-value", "setting APP_OLD": "old-value", "environment": "same"},
        {"app/changed.py": "1", "app/gone.py": "2", "app/same.py": "3"},
    )
    new = Inputs(
        {"commit": "new-value", "setting APP_NEW": "new-value", "environment": "same"},
        {"app/changed.py": "x", "app/new.py": "4", "app/same.py": "3"},
    )
    assert differences(old, new) == [
        "commit changed",
        "setting APP_NEW is new",
        "app/changed.py changed",
        "app/new.py is new",
        "app/gone.py is gone",
        "setting APP_OLD is gone",
    ]
    assert differences(new, new) == []


def test_a_file_whose_name_is_no_text_is_named_so_that_it_can_be_printed() -> None:
    told = differences(Inputs({}, {}), Inputs({}, {"app/\udcff\nrun \x1b[1mé": "1"}))
    assert told == [r"app/\udcff\nrun \x1b[1mé is new"]
    assert told[0].encode()


# --- values --------------------------------------------------------------------------------------

SOURCE = Source("c0ffee", 1_750_000_000, "")
PASSWORD = "correct horse battery staple"  # noqa: S105  (of nobody)


def differing(workshop: Workshop, then: Settings, now: Settings) -> list[str]:
    return differences(
        gather(workshop.tools(**then), SOURCE), gather(workshop.tools(**now), SOURCE)
    )


def test_a_setting_counts(workshop: Workshop) -> None:
    assert differing(workshop, {}, {"TEST_TIMEOUT": "1"}) == ["setting TEST_TIMEOUT changed"]
    assert differing(workshop, {}, {"APP_MODE": "x"}) == ["setting APP_MODE is new"]
    assert differing(workshop, {"APP_MODE": "x"}, {}) == ["setting APP_MODE is gone"]
    assert differing(workshop, {}, {"TEST_TIMEOUT": "900"}) == []  # the default


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("KEEP", "always"), ("JOBS", "1"), ("FRESH", "on"), ("LOCK_TIMEOUT", "5"),
        ("PUBLISH", "on"), ("REGISTRY", "registry.example.org"), ("INDEX_URL", "https://x.org/"),
        ("INDEX_USERNAME", "me"), ("INDEX_PASSWORD", "secret"), ("BUILD_NUMBER", "7"),
        ("BUILD_CACHE_FROM", "type=registry,ref=x.org/cache"), ("PUBLISH_DEADLINE", "9"),
        ("VERIFY_IMAGE", "registry.example.org/todo:latest"), ("LATEST_BRANCH", "release"),
    ],
)  # fmt: skip
def test_settings_of_how_a_run_is_run_do_not(workshop: Workshop, key: str, value: str) -> None:
    assert differing(workshop, {}, {key: value}) == []


def test_every_setting_is_looked_at_or_known_to_be_of_no_account(workshop: Workshop) -> None:
    """Who adds a setting decides: what is not in `_HOW` makes everything run again."""
    tools = workshop.tools()
    values = gather(tools, SOURCE).values
    known = {name.removeprefix("setting ") for name in values if name.startswith("setting ")}
    assert known | inputs._HOW == {*tools.settings.compose_environment()}
    assert not known & inputs._HOW
    assert {"PROJECT", "BASE_IMAGE", "HTTP_PORT", "TEST_TIMEOUT"} <= known


def test_the_environment_counts_by_name(workshop: Workshop) -> None:
    tools = workshop.tools()
    (tools.checkout.root / "env" / "ci.env").touch()
    ci = dataclasses.replace(tools, settings=load("ci", tools.checkout.root, {}))
    assert differences(gather(tools, SOURCE), gather(ci, SOURCE)) == ["environment changed"]


@pytest.mark.parametrize(
    "other", [Source("c0ffee-dirty", SOURCE.time, ""), Source("c0ffee", 1, "")]
)
def test_the_commit_counts(workshop: Workshop, other: Source) -> None:
    tools = workshop.tools()
    assert differences(gather(tools, SOURCE), gather(tools, other)) == ["commit changed"]


def test_where_the_repository_is_does_not(workshop: Workshop) -> None:
    moved = dataclasses.replace(SOURCE, address="https://example.org/moved.git")
    assert gather(workshop.tools(), SOURCE) == gather(workshop.tools(), moved)


# --- values: secrets -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ({"APP_KEY": "one"}, {"APP_KEY": "two"}),
        ({"APP_KEY": "one"}, {}),
        ({"APP_KEY": "one"}, {"APP_KEY": "one", "APP_DB_PASSWORD": ""}),
        # The same values, elsewhere:
        (
            {"APP_KEY": "one", "APP_DB_PASSWORD": "two"},
            {"APP_KEY": "two", "APP_DB_PASSWORD": "one"},
        ),
        ({"APP_KEY": "one"}, {"APP_TOKEN": "one"}),
        ({"APP_KEY": "one", "APP_TOKEN": "one"}, {"APP_KEY": "one", "APP_TOKEN": "two"}),
        ({"APP_KEY": "one", "APP_TOKEN": "one"}, {"APP_KEY": "one"}),
        ({"APP_KEY": "one", "APP_TOKEN": "two"}, {"APP_KEY": "one\0two"}),
    ],
)
def test_a_secret_counts_and_is_told_without_its_name(
    workshop: Workshop, then: dict[str, str], now: dict[str, str]
) -> None:
    assert differing(workshop, then, now) == ["secrets changed"]
    assert differing(workshop, now, then) == ["secrets changed"]
    assert differing(workshop, then, dict(reversed(then.items()))) == []


def test_a_secret_is_in_nothing_that_is_kept(workshop: Workshop) -> None:
    tools = workshop.tools(APP_DB_PASSWORD=PASSWORD)
    kept = json.dumps(gather(tools, SOURCE).document)
    forms = (PASSWORD, hashlib.sha256(PASSWORD.encode()).hexdigest())
    assert not any(form in kept for form in forms)
    assert "APP_DB_PASSWORD" not in kept


def test_the_fingerprint_of_secrets_tells_nothing_to_others(
    workshop: Workshop, tmp_path: Path
) -> None:
    tools = workshop.tools(APP_DB_PASSWORD=PASSWORD)
    ours = fingerprint(tools)
    place = tools.checkout.target / "secrets" / "fingerprint"
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    (tmp_path / "other" / "target").mkdir(parents=True)
    checkout = dataclasses.replace(tools.checkout, root=tmp_path / "other")
    assert fingerprint(dataclasses.replace(tools, checkout=checkout)) != ours
    assert fingerprint(tools) == ours


def test_a_dry_run_makes_no_fingerprint(workshop: Workshop) -> None:
    tools = workshop.tools(dry=True)
    assert fingerprint(tools) == ""
    assert not (tools.checkout.target / "secrets").exists()


def test_another_key_to_sign_with_counts_wherever_it_is_kept(workshop: Workshop) -> None:
    key = workshop.checkout.root / "key.pem"
    key.write_text("a key")
    unsigned: Settings = {}
    by_file: Settings = {"SIGNING_KEY_FILE": "key.pem"}
    assert differing(workshop, unsigned, {"SIGNING_KEY": "a key"}) == ["secrets changed"]
    assert differing(workshop, unsigned, by_file) == ["secrets changed"]
    before = gather(workshop.tools(**by_file), SOURCE)
    key.write_text("another key")
    assert differences(before, gather(workshop.tools(**by_file), SOURCE)) == ["secrets changed"]


# --- values: images ------------------------------------------------------------------------------


def image(name: str, *tags: str) -> Image:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return Image(f"sha256:{digest}", {}, "", {"RepoTags": [f"{tag}:latest" for tag in tags]})


def test_another_image_under_the_name_of_the_base_image_counts(workshop: Workshop) -> None:
    workshop.engine.images["debian:12-slim"] = image("one")
    before = gather(workshop.tools(), SOURCE)
    assert gather(workshop.tools(), SOURCE) == before
    workshop.engine.images["debian:12-slim"] = image("two")
    assert differences(before, gather(workshop.tools(), SOURCE)) == ["base image changed"]
    del workshop.engine.images["debian:12-slim"]
    assert differences(before, gather(workshop.tools(), SOURCE)) == ["base image changed"]


def test_the_base_image_that_was_made_here_counts_too(workshop: Workshop) -> None:
    workshop.engine.images["seatrial-bootstrapped/debian:12-slim"] = image("one")
    before = gather(workshop.tools(), SOURCE)
    workshop.engine.images["seatrial-bootstrapped/debian:12-slim"] = image("two")
    assert differences(before, gather(workshop.tools(), SOURCE)) == ["base image changed"]


@pytest.mark.parametrize("key", ["DB_IMAGE", "NGINX_IMAGE", "PYTHON_IMAGE"])
def test_another_image_under_a_name_that_the_settings_give_counts(
    workshop: Workshop, key: str
) -> None:
    setting: Settings = {key: "registry.example.org/special:1"}
    workshop.engine.images["registry.example.org/special:1"] = image("one")
    before = gather(workshop.tools(**setting), SOURCE)
    assert gather(workshop.tools(**setting), SOURCE) == before
    workshop.engine.images["registry.example.org/special:1"] = image("two")
    after = gather(workshop.tools(**setting), SOURCE)
    assert differences(before, after) == [f"image of {key} changed"]


# --- the ledger ----------------------------------------------------------------------------------

APPLICATION = "todo-1.2.3-py3-none-any.whl"
DEPENDENCY = "one-1.0-py3-none-any.whl"
PREFIX = "seatrial-0123456789-local"


class Desk:
    """A checkout whose stages have passed, and the ledger in which that is noted."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.root = workshop.checkout.root
        self.target = workshop.checkout.target
        self.images = workshop.engine.images
        self.tools: Tools = workshop.tools()
        put(self.root / "app" / "views.py")
        self.images["debian:12-slim"] = image("debian")

    def ledger(self, source: Source = SOURCE) -> Ledger:
        """Return the ledger of a run that begins now."""
        return Ledger(self.tools, gather(self.tools, source))

    def set(self, **settings: Any) -> None:
        self.tools = self.workshop.tools(**settings)

    def have(self, name: str, *tags: str) -> Thing:
        """Put an image on the engine, and return what a receipt calls it."""
        one = image(name, *tags)
        self.images |= dict.fromkeys((one.id, *tags), one)
        return receipts.image(name, one.id)

    def report(self, stage: str) -> Thing:
        path = put(self.target / "reports" / f"{stage}.xml", f"<testsuite name={stage!r}/>")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Thing(path.name, {"sha256": digest}, notes={"passed": "1"})

    def wheels(self, content: str = "") -> list[Thing]:
        export = wheelhouse.export_folder(self.workshop.checkout)
        put(export / "application" / APPLICATION, f"application {content}")
        put(export / "dependencies" / DEPENDENCY, "dependency")
        house = wheelhouse.collect(self.workshop.checkout)
        hashes = {**house.application, **house.dependencies}
        return [Thing(name, {"sha256": digest}) for name, digest in hashes.items()]

    def sign_off(
        self, ledger: Ledger, stage: str, subjects: Iterable[Thing], with_: Iterable[Thing]
    ) -> None:
        """Write a stage's receipt and note it, as a run does."""
        if stage in {"wheels", "image"}:
            keys = ("builder", "id", "started", "finished", "environment")
            statement = receipts.provenance(subjects, with_, dict.fromkeys(keys, "https://x"))
        else:
            statement = receipts.test_result(subjects, with_, ["test_one"])
        shelf.write(self.target, stage, receipts.seal(statement, None))
        ledger.note(stage)

    def accept(self, *stages: str) -> None:
        """Let these stages pass, or all."""
        ledger = self.ledger()
        named = [self.have(f"image:{name}", f"{PREFIX}/{name}") for name in ("base", "db", "nginx")]
        base, db, nginx = named
        tests = self.have("tests", f"{PREFIX}/test")
        release = self.have("release", f"{PREFIX}/app", f"{PREFIX}/accepted")
        wheels = self.wheels()
        receipt: dict[str, tuple[list[Thing], list[Thing]]] = {
            "unit": ([tests], [self.report("unit")]),
            "integration": ([tests], [db, self.report("integration")]),
            "wheels": (wheels, [base]),
            "image": ([release], [base, *wheels]),
            "acceptance": ([release, *wheels], [db, nginx, self.report("acceptance")]),
        }
        for stage in stages or shelf.STAGES:
            self.sign_off(ledger, stage, *receipt[stage])

    def reasons(self, source: Source = SOURCE) -> dict[str, str]:
        """Return the stages that would have to run now, each with the reason."""
        ledger = self.ledger(source)
        found = {stage: ledger.reason_to_run(stage) for stage in shelf.STAGES}
        return {stage: reason for stage, reason in found.items() if reason}

    def note(self, stage: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.note_path(stage).read_text())
        return document

    def note_path(self, stage: str) -> Path:
        return self.target / "inputs" / f"{stage}.json"

    def edit(self, stage: str, **changes: object) -> None:
        self.note_path(stage).write_text(json.dumps(self.note(stage) | changes))


@pytest.fixture
def desk(workshop: Workshop) -> Desk:
    return Desk(workshop)


def every(reason: str) -> dict[str, str]:
    return dict.fromkeys(shelf.STAGES, reason)


def test_nothing_is_known_before_anything_was_done(desk: Desk) -> None:
    assert desk.reasons() == every("it has no receipt")


def test_what_passed_has_no_reason_to_run(desk: Desk) -> None:
    desk.accept()
    assert desk.reasons() == {}


def test_a_stage_that_did_not_pass_has(desk: Desk) -> None:
    desk.accept("unit", "wheels", "image")
    assert desk.reasons() == {
        "integration": "it has no receipt",
        "acceptance": "it has no receipt",
    }


def test_other_inputs(desk: Desk) -> None:
    desk.accept()
    when = time.strftime("%H:%M", time.localtime(desk.note("unit")["at"]))
    (desk.root / "app" / "views.py").write_text("other\n")
    assert desk.reasons() == every(f"since {when}: app/views.py changed")
    (desk.root / "app" / "views.py").write_text("content\n")
    assert desk.reasons() == {}
    for number in range(4):
        put(desk.root / "app" / f"new-{number}.py")
    desk.set(TEST_TIMEOUT="7")
    assert desk.reasons() == every(
        f"since {when}: setting TEST_TIMEOUT changed, app/new-0.py is new, app/new-1.py is new "
        "and 2 more"
    )


def test_each_receipt_has_inputs_of_its_own(desk: Desk) -> None:
    desk.accept()
    put(desk.root / "app" / "new.py")
    desk.accept("unit", "wheels")
    assert set(desk.reasons()) == {"integration", "image", "acceptance"}
    (desk.root / "app" / "new.py").unlink()
    assert set(desk.reasons()) == {"unit", "wheels"}


def test_of_inputs_only_those_are_kept_that_a_receipt_came_from(desk: Desk) -> None:
    def kept() -> set[str]:
        return {path.stem for path in (desk.target / "inputs").glob("?" * 64 + ".json")}

    desk.accept()
    first = desk.note("unit")["inputs"]
    assert kept() == {first}
    put(desk.root / "app" / "new.py")
    desk.accept("unit")
    second = desk.note("unit")["inputs"]
    assert kept() == {first, second}
    desk.accept()
    assert kept() == {second}


def test_a_receipt_that_is_gone(desk: Desk) -> None:
    desk.accept()
    shelf.remove(desk.target, "unit")
    assert desk.reasons() == {"unit": "it has no receipt"}


@pytest.mark.parametrize("content", ["", "{}", "no JSON", "\xff"])
def test_a_receipt_that_was_edited(desk: Desk, content: str) -> None:
    desk.accept()
    path = shelf.path(desk.target, "acceptance")
    path.write_bytes(content.encode("latin-1") or path.read_bytes() + b"\n")
    assert desk.reasons() == {"acceptance": "its receipt is not the one that was written"}


def test_a_receipt_of_another_stage_in_its_place(desk: Desk) -> None:
    desk.accept()
    shutil.copy(shelf.path(desk.target, "unit"), shelf.path(desk.target, "integration"))
    assert desk.reasons() == {"integration": "its receipt is not the one that was written"}


UNKNOWN = "what its receipt was made from is not known"
NOTES: dict[str, bytes | None] = {
    "gone": None,
    "empty": b"",
    "cut off": b'{"receipt": "',
    "no text": b"\xff\xfe",
    "a list": b"[]",
    "empty object": b"{}",
    "null": b"null",
}


@pytest.mark.parametrize("damage", NOTES)
def test_a_note_that_is_gone_or_damaged(desk: Desk, damage: str) -> None:
    desk.accept()
    content = NOTES[damage]
    if content is None:
        desk.note_path("unit").unlink()
    else:
        desk.note_path("unit").write_bytes(content)
    assert desk.reasons() == {"unit": UNKNOWN}
    desk.accept()
    assert desk.reasons() == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"receipt": None}, {"inputs": 7}, {"at": "now"}, {"at": None}, {"at": True},
        {"at": float("nan")}, {"at": float("inf")}, {"at": -1}, {"at": 1e300}, {"images": []},
        {"files": None}, {"files": {"reports/unit.xml": 7}}, {"images": {"tests": None}},
    ],
    ids=repr,
)  # fmt: skip
def test_a_note_that_makes_no_sense(desk: Desk, changes: dict[str, object]) -> None:
    desk.accept()
    desk.edit("unit", **changes)
    assert desk.reasons() == {"unit": UNKNOWN}


def test_a_note_of_another_receipt(desk: Desk) -> None:
    desk.accept()
    desk.edit("unit", receipt="0" * 64)
    assert desk.reasons() == {"unit": "its receipt is not the one that was written"}


@pytest.mark.parametrize("digest", ["0" * 64, "", "unit", "../files"])
def test_a_note_of_unknown_inputs(desk: Desk, digest: str) -> None:
    desk.accept()
    desk.edit("unit", inputs=digest)
    assert desk.reasons() == {"unit": UNKNOWN}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"values": 5, "files": {}}', '{"x": 1}'])
def test_inputs_that_were_damaged_are_not_told_of(desk: Desk, content: str) -> None:
    desk.accept()
    (desk.target / "inputs" / f"{desk.note('unit')['inputs']}.json").write_text(content)
    assert desk.reasons() == {}  # their digest says it all
    put(desk.root / "app" / "new.py")
    assert desk.reasons() == every(UNKNOWN)


# --- the ledger: what a receipt speaks of --------------------------------------------------------


@pytest.mark.parametrize("stage", ["unit", "integration", "acceptance"])
def test_a_report_that_is_gone_or_another(desk: Desk, stage: str) -> None:
    desk.accept()
    path = desk.target / "reports" / f"{stage}.xml"
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    reason = {stage: f"target/reports/{stage}.xml is not the one that was made"}
    assert desk.reasons() == reason
    path.unlink()
    assert desk.reasons() == reason
    path.mkdir()
    assert desk.reasons() == reason
    path.rmdir()
    path.write_bytes(content)
    assert desk.reasons() == {}


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("tests", {"unit", "integration"}),
        ("image:db", {"integration", "acceptance"}),
        ("image:nginx", {"acceptance"}),
        ("image:base", {"wheels", "image"}),
        ("release", {"image", "acceptance"}),
    ],
)
def test_an_image_that_the_engine_has_no_more(desk: Desk, name: str, stages: set[str]) -> None:
    desk.accept()
    there = desk.images.pop(image(name).id)
    shown = name.removeprefix("image:")
    assert desk.reasons() == dict.fromkeys(stages, f"the engine has the image {shown} no more")
    desk.images[there.id] = there
    assert desk.reasons() == {}


@pytest.mark.parametrize("tags", [(), (f"{PREFIX}/accepted",), ("seatrial-other-local/app",)])
def test_a_release_image_that_has_lost_its_name(desk: Desk, tags: tuple[str, ...]) -> None:
    """Others find it by that: the release environment starts whatever bears the name."""
    desk.accept()
    desk.have("release", *tags)
    assert desk.reasons() == {"image": "the engine has the image release no more"}


def test_an_image_that_was_built_anew_after_its_acceptance(desk: Desk) -> None:
    desk.accept()
    other = desk.have("other release", f"{PREFIX}/app")
    subject = dataclasses.replace(other, name="release")
    desk.sign_off(desk.ledger(), "image", [subject], desk.wheels())
    assert desk.reasons() == {"acceptance": "the release image was built anew since"}


def other_wheel(wheel: Path) -> None:
    wheel.write_bytes(b"other")


def no_wheel(wheel: Path) -> None:
    wheel.unlink()


def link_to_wheel(wheel: Path) -> None:
    wheel.rename(wheel.parent.parent / wheel.name)
    wheel.symlink_to(wheel.parent.parent / wheel.name)


def one_more_wheel(wheel: Path) -> None:
    shutil.copy(wheel, wheel.with_name("more-1.0-py3-none-any.whl"))


def no_wheelhouse(wheel: Path) -> None:
    shutil.rmtree(wheel.parent)


def no_record(wheel: Path) -> None:
    (wheel.parent.parent / "wheelhouse.json").unlink()


def other_record(wheel: Path) -> None:
    (wheel.parent.parent / "wheelhouse.json").write_text("{}")


@pytest.mark.parametrize(
    "change",
    [other_wheel, no_wheel, link_to_wheel, one_more_wheel, no_wheelhouse, no_record, other_record],
)
def test_a_wheelhouse_that_is_not_what_was_built(
    desk: Desk, change: Callable[[Path], None]
) -> None:
    desk.accept()
    change(desk.target / "wheelhouse" / DEPENDENCY)
    assert desk.reasons().keys() == {"wheels", "image", "acceptance"}
    assert all(re.search(r"wheel|[.]whl", reason) for reason in desk.reasons().values())
    desk.accept()
    assert desk.reasons() == {}


def test_wheels_that_were_built_anew_after_the_image(desk: Desk) -> None:
    desk.accept()
    desk.sign_off(desk.ledger(), "wheels", desk.wheels("built anew"), [])
    assert desk.reasons() == dict.fromkeys(["image", "acceptance"], "the wheels are others")


def test_a_wheelhouse_is_read_once_for_all_receipts(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.accept()
    asked: list[object] = []
    really = wheelhouse.verified

    def verified(checkout: Checkout) -> wheelhouse.Wheelhouse:
        asked.append(checkout)
        return really(checkout)

    monkeypatch.setattr(wheelhouse, "verified", verified)
    assert desk.reasons() == {}
    assert len(asked) == 1


# --- the ledger: while stages run ----------------------------------------------------------------


def test_what_has_no_receipt_is_not_noted(desk: Desk) -> None:
    desk.ledger().note("unit")
    assert not (desk.target / "inputs").exists()


def change_file(desk: Desk) -> None:
    put(desk.root / "app" / "views.py", "other\n")


def new_file(desk: Desk) -> None:
    put(desk.root / "compose" / "new.yaml")


def change_and_take_back(desk: Desk) -> None:
    path = desk.root / "app" / "views.py"

    def change() -> None:
        path.write_text("other\n")
        path.write_text("content\n")

    until_stamped(path, change)


def other_base(desk: Desk) -> None:
    desk.images["debian:12-slim"] = image("other")


def no_base(desk: Desk) -> None:
    del desk.images["debian:12-slim"]


@pytest.mark.parametrize(
    "change", [change_file, new_file, change_and_take_back, other_base, no_base]
)
def test_what_changes_while_a_stage_runs(
    desk: Desk, change: Callable[[Desk], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody knows whether the stage saw it as it was, or as it is."""
    desk.accept()
    ledger = desk.ledger()
    subject = desk.have("tests")
    change(desk)
    desk.sign_off(ledger, "unit", [subject], [])
    assert "changed while it ran: it will run again next time" in capsys.readouterr().err
    assert "unit" in desk.reasons()
    if change is change_and_take_back:
        assert desk.reasons() == {"unit": UNKNOWN}


def test_caches_that_a_stage_leaves_are_no_change(desk: Desk) -> None:
    ledger = desk.ledger()
    put(desk.root / "app" / "__pycache__" / "views.pyc")
    put(desk.root / "target" / "runs" / "x" / "log.txt")
    desk.sign_off(ledger, "unit", [desk.have("tests")], [])
    assert "unit" not in desk.reasons()


def test_a_base_image_that_was_got_by_the_run_itself_is_the_one_it_used(desk: Desk) -> None:
    """The first run on a machine: the next one has nothing to do."""
    del desk.images["debian:12-slim"]
    desk.set(DB_IMAGE="postgres:17")
    ledger = desk.ledger()
    desk.images["debian:12-slim"] = image("debian")
    desk.images["postgres:17"] = image("postgres")
    desk.sign_off(ledger, "unit", [desk.have("tests")], [])
    assert "unit" not in desk.reasons()
    # And from now on it is known: another one that comes while it runs is noticed.
    desk.images["debian:12-slim"] = image("other")
    desk.sign_off(ledger, "integration", [desk.have("tests")], [])
    assert desk.reasons()["integration"] == UNKNOWN


def test_stages_that_pass_at_the_same_time_are_all_noted(desk: Desk) -> None:
    for number in range(50):
        put(desk.root / "app" / f"{number}.py")
    for _ in range(20):
        ledger = desk.ledger()
        with ThreadPoolExecutor(len(shelf.STAGES)) as pool:
            subject = desk.have("tests")
            noted = [
                pool.submit(desk.sign_off, ledger, stage, [subject], []) for stage in shelf.STAGES
            ]
        for one in noted:
            one.result()
        assert {path.suffix for path in (desk.target / "inputs").iterdir()} == {".json"}
        assert len(list((desk.target / "inputs").iterdir())) == len(shelf.STAGES) + 1
        (desk.target / "files.json").unlink(missing_ok=True)


# --- the ledger: ages ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds old"), (1, "1 second old"), (119, "119 seconds old"),
        (121, "2 minutes old"), (3600, "60 minutes old"), (7190, "120 minutes old"),
        (7201, "2 hours old"), (86400, "24 hours old"), (86400 * 30, "30 days old"),
    ],
)  # fmt: skip
def test_age(desk: Desk, monkeypatch: pytest.MonkeyPatch, seconds: int, words: str) -> None:
    desk.accept("unit")
    at = desk.note("unit")["at"]
    monkeypatch.setattr(time, "time", lambda: at + seconds)
    age = desk.ledger().age("unit")
    assert age.startswith("receipt of ")
    assert age.endswith(f", {words}")


def test_a_receipt_of_today_has_a_time_and_another_a_date_too(desk: Desk) -> None:
    desk.accept("unit")
    assert re.match(r"receipt of \d\d:\d\d, ", desk.ledger().age("unit"))
    desk.edit("unit", at=time.time() - 86400 * 10)
    assert re.match(r"receipt of \d{4}-\d\d-\d\d \d\d:\d\d, 10 days", desk.ledger().age("unit"))
    put(desk.root / "app" / "new.py")
    assert re.match(r"since \d{4}-\d\d-\d\d \d\d:\d\d: app/new", desk.reasons()["unit"])


@pytest.mark.parametrize("at", [0, 4_000_000_000, 200_000_000_000])
def test_a_receipt_stands_whatever_the_clock_says(desk: Desk, at: int) -> None:
    desk.accept()
    desk.edit("unit", at=at)
    assert desk.reasons() == {}
    age = desk.ledger().age("unit")
    assert age.endswith("which is still to come by this clock" if at else "days old")
