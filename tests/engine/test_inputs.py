"""What results depend on: whatever of it changes is noticed, and told without its value."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.engine import inputs
from tasks.engine.inputs import Files, hash_files
from tasks.errors import Misconfigured

Reads = list[str]


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
