"""Images: what a build shows, what it fails with, and what the release image must not hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tasks.engine import wheelhouse
from tasks.engine.api import Image
from tasks.engine.console import masker
from tasks.engine.images import STEP_WIDTH, Images, _Steps, failed_step, read_config
from tasks.engine.roles import ImageRoles
from tasks.engine.source import Source
from tasks.errors import Misconfigured, StageFailed, Unavailable

if TYPE_CHECKING:
    from tests.engine.conftest import Workshop

SOURCE = Source("c0ffee", 1_750_000_000, "https://example.org/todo.git", 1_750_000_000)
CONFIGURATION = json.dumps(
    {
        "x-seatrial": {
            role: role if about.annotation is str else [role]
            for role, about in ImageRoles.model_fields.items()
        },
        "services": {role: {} for role in ImageRoles.model_fields},
    }
)
# A docker that knows compose's `config`, and whose builds succeed.
DOCKER = f"""
case "$1" in
compose) cat <<'JSON'
{CONFIGURATION}
JSON
;;
info) printf 'engine 26.1.5\nbuildx v0.13.1\ncompose v2.26.1\n' ;;
esac
"""

BUILD = """\
#0 building with "default" instance using docker driver

#1 [internal] load build definition from Dockerfile
#1 transferring dockerfile: 2.09kB done
#1 DONE 0.0s

#2 [app internal] load metadata for docker.io/library/base
#2 DONE 0.0s

#7 [app wheels 2/5] RUN pip wheel .
#7 0.512 Collecting django
#8 [db 1/2] FROM base
#8 CACHED

#7 [app wheels 2/5] RUN pip wheel .
#7 1.903 ERROR: No matching distribution found for django
#7 ERROR: process "/bin/sh -c pip wheel ." did not complete successfully: exit code: 1
------
 > [app wheels 2/5] RUN pip wheel .:
0.512 Collecting django
1.903 ERROR: No matching distribution found for django
------
 > [app wheels 2/5] RUN pip wheel .:
0.512 Collecting django
------
Dockerfile:12
--------------------
ERROR: failed to solve: process "/bin/sh -c pip wheel ." did not complete successfully: exit code: 1
""".splitlines()


# --- what is shown of a build --------------------------------------------------------------------


def test_steps_are_shown_once_and_errors_always() -> None:
    show = _Steps()
    assert list(filter(None, map(show, BUILD))) == [
        "[app wheels 2/5] RUN pip wheel .",
        "[db 1/2] FROM base",
        'ERROR: process "/bin/sh -c pip wheel ." did not complete successfully: exit code: 1',
    ]


def test_the_same_step_of_another_build_is_shown_again() -> None:
    line = "#7 [app wheels 2/5] RUN pip wheel ."
    assert [_Steps()(line), _Steps()(line)] == ["[app wheels 2/5] RUN pip wheel ."] * 2


def test_a_long_step_is_cut() -> None:
    shown = _Steps()("#7 [app 2/5] RUN " + "x" * 200)
    assert len(shown) == STEP_WIDTH
    assert shown.endswith("xxx...")
    whole = "[app 2/5] RUN " + "x" * (STEP_WIDTH - 14)
    assert _Steps()(f"#7 {whole}") == whole


@pytest.mark.parametrize(
    "line",
    ["", "------", "#7 CACHED", "#7 DONE 0.1s", "#7 0.5 [1/3] a program's own words", "plain words",
     "#1 [internal] load .dockerignore", "#2 [app internal] load metadata for x"],
)  # fmt: skip
def test_everything_else_is_not_shown(line: str) -> None:
    assert _Steps()(line) == ""


# --- what it fails with --------------------------------------------------------------------------


def test_of_a_failed_build_the_failed_step_and_its_lines() -> None:
    assert failed_step(BUILD) == [
        "[app wheels 2/5] RUN pip wheel .",
        "  Collecting django",
        "  ERROR: No matching distribution found for django",
    ]


def test_of_many_lines_the_last_ones() -> None:
    lines = [f"0.1 line {number}" for number in range(100)]
    step = failed_step([" > [app 1/1] RUN make:", *lines, "------"])
    assert step[0] == "[app 1/1] RUN make"
    assert (len(step), step[-1]) == (21, "  line 99")


def test_a_build_that_failed_before_its_first_step_has_none() -> None:
    assert failed_step(["ERROR: failed to solve: no such file", "------"]) == []
    assert failed_step([]) == []


# --- the compose file, resolved ------------------------------------------------------------------


def test_compose_resolves_the_file(workshop: Workshop) -> None:
    workshop.programs.put("docker", DOCKER)
    assert json.loads(read_config(workshop.tools(), "p", "images.yaml", {})) == json.loads(
        CONFIGURATION
    )
    (call,) = workshop.programs.calls
    assert call == (
        "docker compose --env-file /dev/null --project-name p --file images.yaml"
        " config --format json"
    )


def test_a_variable_without_a_value_is_named_and_where_to_set_it(workshop: Workshop) -> None:
    said = (
        "error while interpolating services.app.environment.APP_SECRET_KEY: required variable "
        "APP_SECRET_KEY is missing a value: "
    )
    workshop.programs.put("docker", f"echo '{said}' >&2; exit 15")
    with pytest.raises(Misconfigured) as caught:
        read_config(workshop.tools(), "p", "release.yaml", {})
    failure = caught.value
    assert failure.exit_code == 78
    assert failure.message == "APP_SECRET_KEY has no value, and compose/release.yaml needs one"
    assert "env/local.env" in failure.hint
    assert "env/local.secrets.env" in failure.hint


def test_a_file_that_compose_does_not_take(workshop: Workshop) -> None:
    refusal = "[ $1 != compose ] || { echo 'services.db Additional property x' >&2; exit 15; }\n"
    workshop.programs.put("docker", refusal + DOCKER)
    with pytest.raises(Misconfigured) as caught:
        read_config(workshop.tools(), "p", "release.yaml", {})
    assert caught.value.message == "Compose does not take compose/release.yaml"
    assert caught.value.evidence == ("services.db Additional property x",)


def test_a_docker_that_is_not_there(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(workshop.programs.folder))
    with pytest.raises(Unavailable, match="docker is not installed"):
        read_config(workshop.tools(), "p", "release.yaml", {})


# --- built ---------------------------------------------------------------------------------------


def test_the_roles_are_read_once(workshop: Workshop) -> None:
    workshop.programs.put("docker", DOCKER)
    images = Images(workshop.tools(), SOURCE)
    assert images.roles is images.roles
    assert images.roles.release == "release"
    assert len(workshop.programs.calls) == 1


PREFIX = "seatrial-0123456789-local"
BAKE = "docker buildx bake --file images.yaml --progress plain"


def bakes(workshop: Workshop) -> list[str]:
    calls = [call.removeprefix(BAKE).split() for call in workshop.programs.calls if BAKE in call]
    return [" ".join(targets) for targets in calls]


def with_base(workshop: Workshop, docker: str = DOCKER, **settings: str) -> Images:
    """Return images whose base is there, and that are built by the script `docker`."""
    workshop.engine.images["debian:12-slim"] = Image("sha256:0", {}, "", {})
    workshop.programs.put("docker", docker)
    return Images(workshop.tools(dry=False, **settings), SOURCE)


def noting(workshop: Workshop, script: str = "") -> str:
    """Return a docker that notes its environment for `seen`, runs `script`, and builds."""
    return f'env >>"{workshop.checkout.root}/seen"\n{script}\n{DOCKER}'


def seen(workshop: Workshop) -> dict[str, str]:
    """Return the environment of the builds, of several the last one's."""
    lines = (workshop.checkout.root / "seen").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def with_wheelhouse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a wheelhouse that is in order, with an application of version 1.0."""
    house = wheelhouse.Wheelhouse({"todo-1.0-py3-none-any.whl": ""}, {})
    monkeypatch.setattr(wheelhouse, "lay_out", lambda _: house)


def test_a_role_is_built_once(workshop: Workshop) -> None:
    images = with_base(workshop)
    images.build("services")
    images.build("services")
    assert bakes(workshop) == ["services"]


def test_what_the_names_stood_for_before_is_removed(workshop: Workshop) -> None:
    images = with_base(workshop)
    images.remove_replaced()
    assert workshop.engine.images_removed == []
    images.build("services")
    images.remove_replaced()
    assert workshop.engine.images_removed == [(workshop.checkout.labels, True)]


def test_what_a_run_needs_is_built_with_the_first_that_is_asked_for(workshop: Workshop) -> None:
    images = with_base(workshop)
    images.expected = frozenset({"acceptance", "services", "publishing"})
    images.build("tests")
    images.build("services")
    images.build("acceptance")
    # what knows nothing of the source is built beside the rest: it is there earlier
    assert bakes(workshop) == ["acceptance tests", "publishing services"]


def with_version(workshop: Workshop, version: str) -> None:
    folder = workshop.checkout.root / "app"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(f"[project]\n{version}\n")


def test_wheels_and_release_image_are_built_in_one_graph(workshop: Workshop) -> None:
    with_version(workshop, "version = '1.0-rc.2'")
    images = with_base(workshop, noting(workshop))
    images.expected = frozenset({"wheelhouse", "release", "check"})
    images.build("wheelhouse")
    images.build("release")
    assert bakes(workshop) == ["check release wheelhouse"]
    told = seen(workshop)
    assert (told["WHEELS"], told["VERSION"]) == ("target:wheelhouse", "1.0rc2")


def test_a_version_that_the_build_makes_has_to_be_known_first(workshop: Workshop) -> None:
    with_version(workshop, "dynamic = ['version']")
    images = with_base(workshop)
    images.expected = frozenset({"wheelhouse", "release", "check", "tests"})
    images.build("tests")
    assert bakes(workshop) == ["tests wheelhouse"]


def test_a_wheel_of_another_version_than_was_written_has_the_release_image_built_again(
    workshop: Workshop,
) -> None:
    with_version(workshop, "version = '1.0'")
    export = wheelhouse.export_folder(workshop.checkout)
    wheels = [export / "application" / "app-2.0-py3-none-any.whl", export / "dependencies" / "x"]
    made = "\n".join(f"mkdir -p {wheel.parent}" for wheel in wheels) + f"\ntouch {wheels[0]}"
    images = with_base(workshop, noting(workshop, made))
    images.expected = frozenset({"wheelhouse", "release", "check"})
    images.wheels()
    images.release()
    assert bakes(workshop) == ["check release wheelhouse", "check release"]
    told = seen(workshop)
    assert (told["VERSION"], told["WHEELS"]) == ("2.0", "../target/build/wheels")


def test_what_was_made_is_known_by_its_name(workshop: Workshop) -> None:
    images = with_base(workshop)
    assert not images.made(f"{PREFIX}/services")
    images.build("services")
    assert images.made(f"{PREFIX}/services")
    assert not images.made(f"{PREFIX}/tests")  # may be there, of an earlier run
    assert not images.made("debian:12-slim")
    assert not images.made("another-0123456789/services")
    assert not images.made("")


def test_the_release_image_is_made_when_it_is_the_one_of_the_wheelhouse(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_version(workshop, "version = '1.0'")
    monkeypatch.setattr(wheelhouse, "verified", lambda _: None)
    images = with_base(workshop)
    images.expected = frozenset({"wheelhouse", "release"})
    images.build("wheelhouse")
    assert bakes(workshop) == ["release wheelhouse"]
    assert not images.made(f"{PREFIX}/release")  # it may have to be built again
    images.release()
    assert images.made(f"{PREFIX}/release")


def test_a_role_that_no_image_plays_builds_nothing(workshop: Workshop) -> None:
    # a bake that names no targets would build them all
    roles = json.loads(CONFIGURATION)
    roles["x-seatrial"]["services"] = []
    with_base(workshop, DOCKER.replace(CONFIGURATION, json.dumps(roles))).build("services")
    assert bakes(workshop) == []


def test_tools_that_are_too_old_are_told_before_any_work(workshop: Workshop) -> None:
    old = DOCKER.replace("engine 26.1.5", "engine 20.10.24")
    workshop.programs.put("docker", old)
    with pytest.raises(Unavailable, match="do not suffice") as caught:
        Images(workshop.tools(), SOURCE).build("services")
    assert caught.value.exit_code == 69
    (found,) = caught.value.evidence
    assert found.startswith("engine: 20.10.24 found, ")
    assert bakes(workshop) == []


def test_compose_that_is_missing_is_told_as_such(workshop: Workshop) -> None:
    # A docker without its plugin takes compose's options for its own.
    workshop.programs.put(
        "docker",
        "[ $1 != compose ] || { echo 'unknown flag: --env-file' >&2; exit 125; }\n"
        + DOCKER.replace("compose v2.26.1\n", ""),
    )
    with pytest.raises(Unavailable, match="do not suffice") as caught:
        read_config(workshop.tools(), "p", "release.yaml", {})
    assert caught.value.exit_code == 69
    assert [line.split(",")[0] for line in caught.value.evidence] == ["compose: none found"]


def test_if_one_of_them_fails_its_own_stage_does(workshop: Workshop) -> None:
    images = with_base(workshop, f'case "$*" in *bake*acceptance*) exit 1 ;; esac\n{DOCKER}')
    images.expected = frozenset({"acceptance", "services", "tests"})
    images.build("services")
    images.build("tests")
    with pytest.raises(StageFailed, match="building acceptance failed"):
        images.build("acceptance")
    assert bakes(workshop) == ["services", "acceptance tests", "tests", "acceptance"]


LOST = "ERROR: target services: failed to solve: failed to get edge: inconsistent graph state"


def test_a_builder_that_lost_track_is_asked_once_more(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = workshop.checkout.root / "lost"
    lose = f'touch {lost}; echo "{LOST}"; exit 1'
    once = f'case "$*" in *bake*) [ -e {lost} ] || {{ {lose}; }} ;; esac'
    with_base(workshop, f"{once}\n{DOCKER}").build("services")
    assert bakes(workshop) == ["services", "services"]
    assert "building once more" in capsys.readouterr().err


def test_a_builder_that_lost_track_twice_fails(workshop: Workshop) -> None:
    images = with_base(workshop, f'case "$*" in *bake*) echo "{LOST}"; exit 1 ;; esac\n{DOCKER}')
    with pytest.raises(StageFailed, match="building services failed") as caught:
        images.build("services")
    assert bakes(workshop) == ["services", "services"]
    assert LOST in caught.value.evidence


def test_a_build_sees_what_the_file_needs(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_wheelhouse(monkeypatch)
    with_base(workshop, noting(workshop), APP_NAME="todo").build("release")
    told = seen(workshop)
    expected = {
        "APP_NAME": "todo",
        "PROJECT": "seatrial",
        "CHECKOUT": "0123456789",
        "IMAGE_PREFIX": PREFIX,
        "BASE_SOURCE": "debian:12-slim",
        "VERSION": "1.0",
        "REVISION": "c0ffee",
        "SOURCE": "https://example.org/todo.git",
        "CREATED": "2025-06-15T15:06:40Z",
        "CHANGED": "1750000000",
        "EXPORT_FOLDER": "../target/build/export",
        "WHEELS": "../target/build/wheels",
        "PIP_CONF": "../target/build/pip.conf",
        "CA_FILE": "../target/build/ca.pem",
        "BUILDX_GIT_INFO": "0",
    }
    assert {name: told.get(name) for name in expected} == expected


def test_a_failed_build_is_told_by_its_failed_step(workshop: Workshop) -> None:
    output = workshop.checkout.root / "output"
    output.write_text("\n".join(BUILD) + "\n")
    images = with_base(workshop, f'[ "$1" != buildx ] || {{ cat "{output}"; exit 1; }}\n{DOCKER}')
    with pytest.raises(StageFailed) as caught:
        images.build("services")
    failure = caught.value
    assert failure.message == "building services failed"
    assert failure.evidence[0] == "[app wheels 2/5] RUN pip wheel ."
    assert workshop.engine.images_removed == []


def test_a_full_disk_is_not_the_builds_fault(workshop: Workshop) -> None:
    said = "write x: no space left on device"
    images = with_base(workshop, f'[ "$1" != buildx ] || {{ echo "{said}"; exit 1; }}\n{DOCKER}')
    with pytest.raises(Exception, match="ended with 1") as caught:
        images.build("services")
    assert getattr(caught.value, "exit_code", None) == 74


def test_a_dry_run_builds_and_writes_nothing(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.programs.put("docker", DOCKER)
    images = Images(workshop.tools(dry=True), SOURCE)
    images.wheels()
    images.release()
    images.check_release()
    # roles are read, nothing else is run
    assert [call for call in workshop.programs.calls if " config " not in call] == []
    assert list(workshop.checkout.target.iterdir()) == []
    shown = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["wheelhouse", "release", "check"]


# --- the release image, looked at ----------------------------------------------------------------


def checked(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, image: Image | None) -> None:
    """Check a release image as if its wheelhouse were in order."""
    with_wheelhouse(monkeypatch)
    images = with_base(workshop)
    if image is not None:
        workshop.engine.images[f"{PREFIX}/release"] = image
        workshop.engine.images[image.id] = image
    workshop.console.mask = masker(["tr0ub4dor"])
    images.check_release()


def test_a_release_image_that_is_in_order(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.engine.commands = ["COPY wheels", "RUN pip install"]
    checked(workshop, monkeypatch, Image("sha256:1", {}, "app", {"Config": {"Env": ["A=1"]}}))
    assert workshop.programs.calls[-1].endswith(" check")


@pytest.mark.parametrize("user", ["", "0", "root", "0:0", "root:app"])
def test_one_that_runs_as_root(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    with pytest.raises(StageFailed, match="runs as root") as caught:
        checked(workshop, monkeypatch, Image("sha256:1", {}, user, {}))
    assert "USER" in caught.value.hint


@pytest.mark.parametrize("user", ["app", "1000", "1000:0", "app:root"])
def test_one_that_does_not(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    checked(workshop, monkeypatch, Image("sha256:1", {}, user, {}))


def test_one_that_is_not_there(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageFailed, match="there is no release image") as caught:
        checked(workshop, monkeypatch, None)
    assert "release.image" in caught.value.hint


@pytest.mark.parametrize("where", ["configuration", "history"])
def test_one_with_a_secret_in_it(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    configuration = {"Config": {"Env": ["APP_SECRET_KEY=tr0ub4dor"]}}
    if where == "history":
        workshop.engine.commands = ["RUN curl -u me:tr0ub4dor https://example.org"]
        configuration = {}
    with pytest.raises(StageFailed, match="has a secret in its configuration or history") as caught:
        checked(workshop, monkeypatch, Image("sha256:1", {}, "app", configuration))
    assert "--mount=type=secret" in caught.value.hint
    assert "tr0ub4dor" not in f"{caught.value.message}{caught.value.evidence}"


def test_one_that_lacks_a_package(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    with_wheelhouse(monkeypatch)
    said = "django 5.2 requires asgiref, which is not installed."
    images = with_base(
        workshop,
        f'[ "$1" != buildx ] || {{ echo " > [check 1/1] RUN pip check:"; echo "0.3 {said}";'
        f" exit 1; }}\n{DOCKER}",
    )
    with pytest.raises(StageFailed) as caught:
        images.check_release()
    assert caught.value.message == "the release image is not complete"
    assert caught.value.evidence == ("[check 1/1] RUN pip check", f"  {said}")
