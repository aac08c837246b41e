"""What is being released, as git tells: the revision must never promise more than there is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tasks.engine.console import Console
from tasks.engine.process import CommandFailed, Processes
from tasks.engine.source import UNVERSIONED, Source, inspect, names, version
from tasks.errors import Unavailable

WHEN = 1_750_000_000


class Repository:
    """A repository with a git of its own: nobody's configuration but its own counts."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "tester",
            "GIT_AUTHOR_EMAIL": "tester@example.org",
            "GIT_COMMITTER_NAME": "tester",
            "GIT_COMMITTER_EMAIL": "tester@example.org",
            "GIT_COMMITTER_DATE": f"{WHEN} +0200",
        }
        self.git("init", "--quiet")

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(self.root), *arguments],
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def commit(self, name: str = "file") -> str:
        (self.root / name).write_text("committed")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "a commit")
        return self.git("rev-parse", "HEAD").strip()

    def inspect(self) -> Source:
        return inspect(self.root, Processes(Console(), self.environment, self.root))

    def names(self) -> tuple[list[str], str]:
        return names(self.root, Processes(Console(), self.environment, self.root))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    (tmp_path / "home").mkdir()
    (tmp_path / "a checkout").mkdir()
    return Repository(tmp_path / "a checkout", tmp_path / "home")


# --- the revision --------------------------------------------------------------------------------


def test_a_clean_tree(repository: Repository) -> None:
    revision = repository.commit()
    source = repository.inspect()
    assert source == Source(revision, WHEN, "", WHEN)
    assert len(revision) == 40
    assert not source.dirty
    assert source.created == "2025-06-15T15:06:40Z"


def test_it_is_the_last_commit(repository: Repository) -> None:
    first = repository.commit()
    second = repository.commit("another")
    assert repository.inspect().revision == second != first


@pytest.mark.parametrize("change", ["edited", "added", "removed", "untracked", "mode"])
def test_whatever_is_not_committed_makes_it_dirty(repository: Repository, change: str) -> None:
    revision = repository.commit()
    file = repository.root / "file"
    match change:
        case "edited":
            file.write_text("edited")
        case "added":
            (repository.root / "new").touch()
            repository.git("add", "new")
        case "removed":
            file.unlink()
        case "untracked":
            (repository.root / "folder").mkdir()
            (repository.root / "folder" / "new").touch()
        case "mode":
            file.chmod(0o755)
    source = repository.inspect()
    assert source.revision == f"{revision}-dirty"
    assert source.dirty


def test_ignored_files_do_not_make_it_dirty(repository: Repository) -> None:
    (repository.root / ".gitignore").write_text("/target/\n")
    repository.commit()
    (repository.root / "target").mkdir()
    (repository.root / "target" / "new").touch()
    assert not repository.inspect().dirty


def test_untracked_files_count_though_the_user_hides_them(repository: Repository) -> None:
    repository.commit()
    repository.git("config", "status.showUntrackedFiles", "no")
    assert not repository.inspect().dirty
    (repository.root / "new").touch()
    assert repository.inspect().dirty


def test_a_user_who_wants_to_see_signatures_is_fine(repository: Repository, tmp_path: Path) -> None:
    repository.commit()
    head, body = repository.git("cat-file", "commit", "HEAD").split("\n\n", 1)
    seal = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----"
    (tmp_path / "signed").write_text(f"{head}\n{seal}\n\n{body}")
    signed = repository.git("hash-object", "-t", "commit", "-w", str(tmp_path / "signed")).strip()
    repository.git("reset", "--quiet", "--hard", signed)
    verifier = tmp_path / "verifier"
    verifier.write_text("#!/bin/sh\necho 'Good signature by somebody with many words' >&2\n")
    verifier.chmod(0o755)
    repository.git("config", "gpg.program", str(verifier))
    repository.git("config", "log.showSignature", "true")
    assert "Good signature" in repository.git("log", "-1", "--format=%H %ct")
    assert repository.inspect().revision == signed


def test_a_checkout_in_a_worktree_of_its_own(repository: Repository, tmp_path: Path) -> None:
    revision = repository.commit()
    repository.git("worktree", "add", "--quiet", str(tmp_path / "other"))
    repository.root = tmp_path / "other"
    assert (repository.root / ".git").is_file()
    assert repository.inspect().revision == revision


# --- no revision ---------------------------------------------------------------------------------


def test_outside_of_git(tmp_path: Path, processes: Processes) -> None:
    source = inspect(tmp_path, processes)
    assert source == Source(UNVERSIONED, 0, "")
    assert source.dirty
    assert source.created == "1970-01-01T00:00:00Z"


def test_a_folder_within_somebody_elses_repository_is_outside(repository: Repository) -> None:
    repository.commit()
    (repository.root / "inner").mkdir()
    repository.root /= "inner"
    assert repository.inspect().revision == UNVERSIONED


def test_before_the_first_commit(repository: Repository) -> None:
    assert repository.inspect() == Source(UNVERSIONED, 0, "")


def test_before_the_first_commit_whatever_language_git_speaks(
    tmp_path: Path, console: Console
) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "bin").mkdir()
    git = tmp_path / "bin" / "git"
    git.write_text(
        "#!/bin/sh\n"
        'if [ "$LC_ALL" = C ]; then said="your current branch does not have any commits yet"\n'
        "else said='Ihr aktueller Branch hat noch keine Commits.'; fi\n"
        'echo "fatal: $said" >&2; exit 128\n'
    )
    git.chmod(0o755)
    path = f"{git.parent}:{os.environ['PATH']}"
    german = Processes(console, {"PATH": path, "LC_ALL": "de_DE.UTF-8"}, tmp_path)
    assert inspect(tmp_path, german).revision == UNVERSIONED


def test_what_git_refuses_is_told(tmp_path: Path, processes: Processes) -> None:
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    with pytest.raises(CommandFailed) as caught:
        inspect(tmp_path, processes)
    assert "not a git repository" in " ".join(caught.value.evidence)


def test_a_machine_without_git(tmp_path: Path, console: Console) -> None:
    (tmp_path / ".git").mkdir()
    with pytest.raises(Unavailable, match="git is not installed"):
        inspect(tmp_path, Processes(console, {"PATH": str(tmp_path)}, tmp_path))


# --- tags and branch -----------------------------------------------------------------------------


def test_names_of_the_commit(repository: Repository) -> None:
    repository.commit()
    repository.git("tag", "v0.9")
    repository.commit("another")
    repository.git("tag", "v1.0")
    repository.git("tag", "latest")
    repository.git("checkout", "--quiet", "-b", "release/1")
    assert repository.names() == (["latest", "v1.0"], "release/1")


def test_a_commit_without_names(repository: Repository) -> None:
    repository.commit()
    repository.git("checkout", "--quiet", "--detach")
    assert repository.names() == ([], "")


def test_outside_of_git_there_are_no_names(tmp_path: Path, processes: Processes) -> None:
    assert names(tmp_path, processes) == ([], "")


# --- the address ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remote", "shown"),
    [
        ("https://example.org/team/todo.git", "https://example.org/team/todo.git"),
        ("https://me@example.org/todo.git", "https://example.org/todo.git"),
        ("https://me:hunter22@example.org/todo.git", "https://example.org/todo.git"),
        ("https://me:hun@ter22@example.org/todo.git", "https://example.org/todo.git"),
        ("https://oauth2:glpat-x@example.org:8443/t.git", "https://example.org:8443/t.git"),
        ("ssh://git@example.org:22/todo.git", "ssh://example.org:22/todo.git"),
        ("https://example.org/@scope/todo.git", "https://example.org/@scope/todo.git"),
        ("git@example.org:team/todo.git", "git@example.org:team/todo.git"),
        ("/srv/git/todo.git", "/srv/git/todo.git"),
    ],
)
def test_credentials_are_left_out_of_the_address(
    repository: Repository, remote: str, shown: str
) -> None:
    repository.commit()
    repository.git("remote", "add", "origin", remote)
    source = repository.inspect()
    assert source.address == shown
    assert "hunter22" not in repr(source)


def test_another_remote_than_origin_is_no_address(repository: Repository) -> None:
    repository.commit()
    repository.git("remote", "add", "upstream", "https://example.org/todo.git")
    assert repository.inspect().address == ""


# --- the version that is written down ------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[project]\nversion = '1.2.0'", "1.2.0"),
        ("[project]\nversion = '1.2-RC.3'", "1.2rc3"),  # as the wheel's name has it
        ("[project]\ndynamic = ['version']", ""),
        ("[project]\nversion = 'one'", ""),
        ("[project]\nversion = 1", ""),
        ("project = 1", ""),
        ("[tool.x]", ""),
        ("[project", ""),
    ],
)
def test_version(tmp_path: Path, written: str, expected: str) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "pyproject.toml").write_text(written)
    assert version(tmp_path) == expected


def test_version_of_no_project(tmp_path: Path) -> None:
    assert version(tmp_path) == ""
