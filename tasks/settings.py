"""Settings: env files and process environment, made into one frozen, validated object.

Four layers, later ones win: the defaults below, `env/<name>.env` (committed),
`env/<name>.secrets.env` (optional, never committed), the process environment. Each layer must be
valid by itself, and all that is wrong with any of them is told at once. Nobody else in the
collection reads an env file or the process environment.

To add a setting, add a field to `Fields` and describe it in `env/example.env`.
"""

from __future__ import annotations

import difflib
import fcntl
import ipaddress
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tasks import envfile
from tasks.errors import DiskFailure, Misconfigured

MASK = "********"
PLACEHOLDER = "placeholder-until-the-first-real-run"

_PROCESS = "process environment"
_SHOWN_PROBLEMS = 100
_ENVIRONMENT = re.compile(r"[a-z0-9][a-z0-9_-]*")
_APPLICATION = re.compile(r"APP_[A-Za-z0-9_]{1,100}")
_SECRET = re.compile(
    r"_(PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|KEY|CREDENTIALS|DSN)$", re.IGNORECASE
)
_CAPITAL_WORDS = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
_LONGEST_KEY = 64

_PATH = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = (
    rf"^(?:(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?/)?{_PATH}(?:/{_PATH})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$"
)


def _ip_address(text: str) -> str:
    ipaddress.ip_address(text)
    return text


def _switch(text: object) -> object:
    if isinstance(text, str):
        return {"on": True, "1": True, "off": False, "0": False}.get(text, "neither")
    return text


def _names(text: object) -> object:
    if not isinstance(text, str):
        return text
    return tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))


# A description completes the sentence "must be ...": pydantic's own messages would show the value.
_ProjectName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9]+(?:(?:_|__|-+)[a-z0-9]+)*$",
        max_length=40,
        description="at most 40 lower-case letters and digits, in words joined by - or _",
    ),
]
_ImageReference = Annotated[
    str, Field(pattern=_IMAGE, description="an image reference, such as debian:12-slim")
]
_OptionalImage = Annotated[
    str,
    Field(pattern=rf"^$|{_IMAGE}", description="an image reference, or empty for the base image"),
]
_Address = Annotated[
    str, AfterValidator(_ip_address), Field(description="an IP address, such as 127.0.0.1")
]
_Port = Annotated[
    int, Field(ge=0, le=65535, description="a port from 0 to 65535 (0: any free one)")
]
_Seconds = Annotated[
    float, Field(gt=0, allow_inf_nan=False, description="a number of seconds greater than 0")
]
_SecondsOrNone = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="a number of seconds, 0 or more")
]
_Cache = Annotated[
    str, Field(pattern=r"^$|^[^\s]+$", description="a cache as docker buildx takes it")
]
_Jobs = Annotated[int, Field(ge=1, le=64, description="a number of stages from 1 to 64")]
_Switch = Annotated[bool, BeforeValidator(_switch), Field(description="on or off")]
_Host = Annotated[
    str,
    Field(pattern=r"^$|^[A-Za-z0-9.\[\]:-]+$", description="host or host:port, without a scheme"),
]
_Repository = Annotated[
    str,
    Field(
        pattern=r"^$|^[a-z0-9]+(?:(?:\.|_|__|-+|/)[a-z0-9]+)*$",
        max_length=200,
        description="a repository's path, such as team/app",
    ),
]
_Url = Annotated[
    str, Field(pattern=r"^$|^https?://[^@\s]+$", description="an http(s) address, no user in it")
]
_BuildNumber = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_.-]{0,100}$", description="letters, digits, _ . -")
]
_Reference = Annotated[
    str, Field(pattern=r"^$|^[^\s/]+/[^\s]+$", description="registry/repository:tag or @digest")
]
_Keep = Annotated[
    Literal["never", "failure", "always"], Field(description="never, failure or always")
]
_ApplicationNames = Annotated[
    tuple[Annotated[str, Field(pattern=f"^{_APPLICATION.pattern}$")], ...],
    BeforeValidator(_names),
    Field(description="names that start with APP_, separated by commas"),
]


class Fields(BaseModel):
    """The typed settings. The key in a file or the process environment is the name in capitals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: _ProjectName = "seatrial"
    base_image: _ImageReference = "debian:12-slim"
    db_image: _OptionalImage = ""
    nginx_image: _OptionalImage = ""
    python_image: _OptionalImage = ""
    bind_address: _Address = "127.0.0.1"
    http_port: _Port = 0
    database_deadline: _Seconds = 60
    frontend_deadline: _Seconds = 60
    step_timeout: _Seconds = 300
    test_timeout: _Seconds = 900
    lock_timeout: _SecondsOrNone = 0
    keep: _Keep = "never"
    jobs: _Jobs = 8
    fresh: _Switch = False
    build_cache_from: _Cache = ""
    build_cache_to: _Cache = ""
    generated_secrets: _ApplicationNames = ()
    publish: _Switch = False
    registry: _Host = ""
    repository: _Repository = ""
    index_url: _Url = ""
    index_simple_url: _Url = ""
    publish_dependencies: _Switch = True
    index_username: str = ""
    index_password: str = ""
    ca_file: str = ""
    publish_deadline: _Seconds = 300
    latest_branch: str = "main"
    build_number: _BuildNumber = ""
    signing_key: str = ""
    signing_key_file: str = ""
    trusted_keys: str = ""
    trusted_keys_file: str = ""
    verify_image: _Reference = ""


KEYS: Mapping[str, str] = MappingProxyType({field.upper(): field for field in Fields.model_fields})
"""The known keys, each with its field; those of the application come on top."""

_OURS_ALONE = frozenset({"SIGNING_KEY", "INDEX_PASSWORD"})


class Origin(NamedTuple):
    """A setting as it may be shown to anybody, and where its value comes from."""

    key: str
    value_shown: str
    source: str


class Settings(Fields):
    """The settings of one environment; get one from `load`."""

    name: str
    root: Path
    application: Annotated[Mapping[str, str], AfterValidator(MappingProxyType)]
    sources: Annotated[Mapping[str, str], AfterValidator(MappingProxyType)]
    secret_keys: frozenset[str]
    warnings: tuple[str, ...]

    def compose_environment(self) -> dict[str, str]:
        """Return exactly the variables compose gets: all keys, and the application's.

        But for the secrets that are ours: no container needs them.
        """
        return {key: text for key, text in self._texts().items() if key not in _OURS_ALONE}

    def secrets(self) -> tuple[str, ...]:
        """Return the values to mask, none empty.

        The longest come first: masked after its own beginning, a secret would leave its tail.
        """
        texts = self._texts()
        values = {texts[key] for key in self.secret_keys} - {""}
        return tuple(sorted(values, key=lambda value: (-len(value), value)))

    def explain(self) -> list[Origin]:
        """Return every setting with its source: the typed ones first, then the application's."""
        texts = self._texts()
        return [
            Origin(key, self._shown(key, texts[key]), self.sources.get(key, "default"))
            for key in (*KEYS, *sorted(self.application))
        ]

    def _texts(self) -> dict[str, str]:
        typed = {key: _written(getattr(self, field)) for key, field in KEYS.items()}
        return {**typed, **self.application}

    def _shown(self, key: str, value: str) -> str:
        return MASK if value and key in self.secret_keys else value

    def __repr_args__(self) -> Iterator[tuple[str | None, object]]:
        """Leave the values out: representations end up in logs and tracebacks."""
        yield "name", self.name
        yield "root", self.root


class _Given(NamedTuple):
    """What a layer says about a key, and where."""

    text: str
    source: str


_PlacedProblem = tuple[str, envfile.Problem]


class _Layer(NamedTuple):
    """What a layer says, what is wrong with it, and the permission bits of its file."""

    given: Mapping[str, _Given] = MappingProxyType({})
    problems: tuple[_PlacedProblem, ...] = ()
    mode: int = 0


def _untracked(_path: Path) -> bool:
    return False


def load(
    name: str,
    root: Path,
    environ: Mapping[str, str],
    *,
    generate: bool = True,
    tracked: Callable[[Path], bool] = _untracked,
) -> Settings:
    """Return the settings of the environment `name` of the checkout `root`.

    `environ` is the process environment. With `generate` false nothing is written, and secrets
    still to be generated have a placeholder for a value. `tracked` says whether git tracks a file.

    Raises Misconfigured with all problems of all layers, and DiskFailure if the generated secrets
    cannot be kept.
    """
    _require_environment(name, root)
    private_file = f"env/{name}.secrets.env"
    committed = _file_layer(root, f"env/{name}.env")
    private = _file_layer(root, private_file)
    process = _process_layer(environ)
    _require_none(
        [*committed.problems, *private.problems, *process.problems],
        f"the settings of the environment {name!r} are not valid",
        "correct what is named above; env/example.env describes every key",
    )
    given = {**committed.given, **private.given, **process.given}
    fields = Fields.model_validate(_typed(given))
    missing = _without_value(fields.generated_secrets, given)
    given |= _generated(root, name, missing, generate=generate)
    secret_by_name = {
        key for key in given if key in fields.generated_secrets or _SECRET.search(key)
    }
    return Settings(
        **fields.model_dump(),
        name=name,
        root=root,
        application={key: value.text for key, value in given.items() if key not in KEYS},
        sources={key: value.source for key, value in given.items()},
        secret_keys=frozenset(secret_by_name | private.given.keys()),
        warnings=(
            *_committed_secrets(committed, secret_by_name, private_file),
            *_exposures(private, root, private_file, tracked),
        ),
    )


# The layers


def _require_environment(name: str, root: Path) -> None:
    valid = _ENVIRONMENT.fullmatch(name)
    if valid and os.path.lexists(root / "env" / f"{name}.env"):
        return
    stems = (path.stem for path in (root / "env").glob("*.env"))
    existing = sorted(stem for stem in stems if _ENVIRONMENT.fullmatch(stem) and stem != "example")
    if valid:
        message = f"there is no environment {name[:_LONGEST_KEY]!r}: its file in env/ is missing"
    else:
        message = (
            f"{name[:_LONGEST_KEY]!r} is not a name made of lower-case letters, digits, - and _"
        )
    raise Misconfigured(
        message,
        evidence=[f"environments: {', '.join(existing) or 'none'}"],
        hint="choose one by INVOKE_ENV=<name>, or make env/<name>.env (see env/example.env)",
    )


def _file_layer(root: Path, label: str) -> _Layer:
    """Read a file, `label` being its path from `root`; one that does not exist is empty."""
    path = root / label
    if not os.path.lexists(path):
        return _Layer()
    reading = envfile.read(path, _is_known)
    given = {
        key: _Given(entry.text, f"{label}:{entry.line}") for key, entry in reading.entries.items()
    }
    problems = [
        *reading.problems,
        *(
            envfile.Problem(reading.entries[key].line, key, what)
            for key, what in _wrong_values(given)
        ),
    ]
    return _Layer(given, _placed(label, problems), reading.mode)


def _placed(label: str, problems: Iterable[envfile.Problem]) -> tuple[_PlacedProblem, ...]:
    """Give each problem of a file its place; 0 is the line of one with the whole file."""
    return tuple((f"{label}:{p.line}" if p.line else label, p) for p in sorted(problems))


def _process_layer(environ: Mapping[str, str]) -> _Layer:
    given = {key: _Given(text, _PROCESS) for key, text in environ.items() if _is_known(key)}
    wrong = dict(_wrong_values(given))
    # Bytes that are not UTF-8 arrive as lone surrogates, which nothing could print or mask.
    wrong |= {key: "is not UTF-8" for key, value in given.items() if not _is_utf8(value.text)}
    return _Layer(given, tuple((_PROCESS, envfile.Problem(0, *item)) for item in wrong.items()))


def _is_known(key: str) -> bool:
    return key in KEYS or _APPLICATION.fullmatch(key) is not None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _typed(given: Mapping[str, _Given]) -> dict[str, str]:
    return {KEYS[key]: value.text for key, value in given.items() if key in KEYS}


def _wrong_values(given: Mapping[str, _Given]) -> list[tuple[str, str]]:
    """Return the keys with a wrong value, each with what is allowed."""
    try:
        Fields.model_validate(_typed(given))
    except ValidationError as error:
        wrong = dict.fromkeys(str(detail["loc"][0]) for detail in error.errors())
        return [
            (field.upper(), f"must be {Fields.model_fields[field].description}") for field in wrong
        ]
    return []


def _written(value: object) -> str:
    """Write a field's value as it would be in an env file."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


# Problems


def _require_none(problems: Sequence[_PlacedProblem], message: str, hint: str) -> None:
    if not problems:
        return
    evidence = [_told(place, problem) for place, problem in problems[:_SHOWN_PROBLEMS]]
    if more := len(problems) - len(evidence):
        evidence.append(f"... and {more} more")
    raise Misconfigured(message, evidence=evidence, hint=hint)


def _told(place: str, problem: envfile.Problem) -> str:
    named = f"{problem.key}: " if _may_be_named(problem.key) else ""
    nearest = None if _is_known(problem.key) else _nearest(problem.key)
    suggestion = f"; did you mean {nearest}?" if nearest else ""
    return f"{place}: {named}{problem.what}{suggestion}"


def _may_be_named(key: str) -> bool:
    """Say whether `key` is a key beyond doubt, and no line of a secret, nor has one stuck to it."""
    return key in KEYS or (len(key) <= _LONGEST_KEY and bool(_CAPITAL_WORDS.fullmatch(key)))


def _nearest(key: str) -> str | None:
    if len(key) > _LONGEST_KEY:
        return None
    return next(iter(difflib.get_close_matches(key.upper(), KEYS, n=1, cutoff=0.75)), None)


# Secrets


def _committed_secrets(committed: _Layer, keys: set[str], private_file: str) -> Iterator[str]:
    for key in sorted(keys & committed.given.keys()):
        text, source = committed.given[key]
        if text:
            yield f"{source}: {key}: a secret in a committed file; move it to {private_file}"


def _exposures(
    layer: _Layer, root: Path, label: str, tracked: Callable[[Path], bool]
) -> Iterator[str]:
    if layer.mode & 0o077:
        yield f"{label}: others may read it (mode {layer.mode:04o}); chmod 600 {label}"
    if layer.given and tracked(root / label):
        yield f"{label}: git tracks it; git rm --cached {label}, and replace the secrets in it"


def _without_value(names: Iterable[str], given: Mapping[str, _Given]) -> list[str]:
    """Return the names no layer gives a value; empty is none, as CI services set missing ones."""
    return [name for name in names if name not in given or not given[name].text]


def _generated(root: Path, name: str, keys: list[str], *, generate: bool) -> dict[str, _Given]:
    """Return secrets for `keys`, generated once per checkout and environment, then kept."""
    if not keys:
        return {}
    path = root / "target" / "secrets" / f"{name}.env"
    kept = _kept_secrets(path)
    if generate and not all(map(kept.get, keys)):
        try:
            kept = _keep_secrets(path, keys)
        except OSError as error:
            raise DiskFailure(
                "the generated secrets cannot be kept",
                evidence=[f"target/secrets/{path.name}: {error.strerror}"],
                hint="make target/ writable, or give the secrets in the process environment",
            ) from None
    return {key: _Given(kept.get(key) or PLACEHOLDER, "generated") for key in keys}


def _kept_secrets(path: Path) -> dict[str, str]:
    if not os.path.lexists(path):
        return {}
    label = f"target/secrets/{path.name}"
    reading = envfile.read(path, lambda key: _APPLICATION.fullmatch(key) is not None)
    _require_none(
        _placed(label, reading.problems),
        "the generated secrets cannot be read",
        f"remove {label}: new secrets will be generated",
    )
    return {key: entry.text for key, entry in reading.entries.items()}


def _keep_secrets(path: Path, keys: Iterable[str]) -> dict[str, str]:
    """Generate what `path` lacks of `keys`, and return all that it holds."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    with _locked(path.parent):
        kept = _kept_secrets(path)  # again: another process may just have written it
        # Hexadecimal, because nothing anywhere gives it a meaning: no leading -, no $, no quoting.
        kept |= {key: secrets.token_hex(32) for key in keys if not kept.get(key)}
        envfile.write(path, kept, "Generated once for this checkout; `invoke clean` removes it.")
    return kept


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock ends with the descriptor, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
