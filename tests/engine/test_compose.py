"""Every argv, against a literal: what would be run is read here, and nowhere else."""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path

import pytest

from tasks.engine import compose

HERE = Path(__file__)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        pytest.param(
            compose.config("p-1", "release.yaml"),
            "docker compose --env-file /dev/null --project-name p-1 --file release.yaml"
            " config --format json",
            id="config",
        ),
        pytest.param(
            compose.up("p-1", "release.yaml", ["db"]),
            "docker compose --env-file /dev/null --project-name p-1 --file release.yaml"
            " up --detach --no-deps --no-build --pull never --timeout 0 --quiet-pull db",
            id="up, one service",
        ),
        pytest.param(
            compose.up("p-1", "test.yaml", ["app", "nginx"]),
            "docker compose --env-file /dev/null --project-name p-1 --file test.yaml"
            " up --detach --no-deps --no-build --pull never --timeout 0 --quiet-pull app nginx",
            id="up, several services",
        ),
        pytest.param(
            compose.create("p-1", "release.yaml", ["app", "nginx"]),
            "docker compose --env-file /dev/null --project-name p-1 --file release.yaml"
            " create --no-build --pull never app nginx",
            id="create",
        ),
        pytest.param(
            compose.bake("images.yaml", ["db", "nginx"]),
            "docker buildx bake --file images.yaml --progress plain db nginx",
            id="bake",
        ),
        pytest.param(
            compose.bake("f", ["a"], "type=registry,ref=r.example.com/c", "type=inline"),
            "docker buildx bake --file f --progress plain"
            " --set '*.cache-from=type=registry,ref=r.example.com/c'"
            " --set '*.cache-to=type=inline' a",
            id="bake, with a cache",
        ),
        pytest.param(
            compose.pull("debian:12-slim"),
            "docker pull --quiet debian:12-slim",
            id="pull",
        ),
        pytest.param(
            compose.import_image(Path("/a b/rootfs.tar"), "p/debian:12", {"a": "1", "b.c": "2"}),
            "docker import --change 'CMD [\"bash\"]' --change 'LABEL a=1' --change 'LABEL b.c=2'"
            " '/a b/rootfs.tar' p/debian:12",
            id="import, with labels",
        ),
        pytest.param(
            compose.import_image(Path("/a/rootfs.tar"), "p/debian:12", {}),
            "docker import --change 'CMD [\"bash\"]' /a/rootfs.tar p/debian:12",
            id="import, without labels",
        ),
    ],
)
def test_argv(argv: list[str], expected: str) -> None:
    assert shlex.join(argv) == expected


def test_every_builder_is_compared_with_a_literal() -> None:
    builders = {
        name
        for name, _ in inspect.getmembers(compose, inspect.isfunction)
        if not name.startswith("_")
    }
    assert builders >= {"config", "up", "create", "bake", "pull", "import_image"}
    compared = HERE.read_text(encoding="utf-8")
    assert sorted(name for name in builders if f"compose.{name}(" not in compared) == []


def test_building_an_argv_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a builder ran something")

    monkeypatch.setattr("subprocess.Popen", refuse)
    assert compose.up("p", "f", ["s"])
    assert compose.config("p", "f")
    assert compose.bake("f", ["t"])
