"""What results depend on: as long as none of it changes, a stage that passed is not run again.

These are, deliberately, all of the following; a change of any of them makes every stage run again:

- each file and folder below `app/` and `compose/`, its mode and content, whether git knows it or
  not (but for Python's own caches, which `.dockerignore` keeps out of the builds too), and what
  links lead to, where others than a build's context follow them;
- the collection itself: `tasks/`, `tasks.py`, `invoke.yaml` and the lock file;
- the environment's name and every setting, but for those that say how a run is run (`_HOW`);
- the secrets, as a keyed hash;
- the commit, since the release image names it;
- the images that builds start from, by ID.

That a receipt is as it was written, that the reports it speaks of are there, the wheels, and the
images on the engine, is asked beside this (`Ledger`). Times decide nothing: the clock may be moved.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.engine import base, shelf, wheelhouse
from tasks.engine.api import Image
from tasks.engine.source import Source
from tasks.engine.tools import Tools
from tasks.errors import Misconfigured, StageFailed

if TYPE_CHECKING:
    from tasks.engine.receipts import Receipt

PATHS = ("app", "compose", "tasks", "tasks.py", "invoke.yaml", "requirements.lock")
CACHES = frozenset({"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"})

# Settings that say how a run is run, and where its results go: not what they are.
_HOW = frozenset(
    {
        *("KEEP", "JOBS", "FRESH", "LOCK_TIMEOUT", "BUILD_CACHE_FROM", "BUILD_CACHE_TO"),
        *("PUBLISH", "REGISTRY", "REPOSITORY", "INDEX_URL", "INDEX_SIMPLE_URL", "INDEX_USERNAME"),
        *("PUBLISH_DEPENDENCIES", "CA_FILE", "PUBLISH_DEADLINE", "LATEST_BRANCH", "BUILD_NUMBER"),
        *("SIGNING_KEY_FILE", "TRUSTED_KEYS", "TRUSTED_KEYS_FILE", "VERIFY_IMAGE"),
    }
)

# A file changed within so many seconds of being read may have changed again unseen.
_RACY_SECONDS = 3.0
_SHOWN = 3
_END_OF_TIME = 250_000_000_000  # of calendars: a year with four digits

# Settings that name an image which builds start from, beside the base image.
_STARTS = ("DB_IMAGE", "NGINX_IMAGE", "PYTHON_IMAGE")


@dataclass(frozen=True)
class Inputs:
    """What the results of a run depend on: values by name, and the hash of each file by path.

    `stamps` are those of the files, for whoever asks whether they were touched meanwhile.
    """

    values: Mapping[str, str]
    files: Mapping[str, str]
    stamps: Mapping[str, list[int]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """One hash of all of it."""
        return _digest(self.document)

    @property
    def document(self) -> dict[str, dict[str, str]]:
        """What is kept of it."""
        return {"values": dict(self.values), "files": dict(self.files)}


def gather(tools: Tools, source: Source) -> Inputs:
    """Return the inputs as they are now."""
    settings = tools.settings.compose_environment()
    hidden = tools.settings.secret_keys
    values = {
        "environment": tools.settings.name,
        "commit": f"{source.revision} of {source.time}",
        **_beneath(tools),
        "secrets": fingerprint(tools),
        **{
            f"setting {key}": value
            for key, value in settings.items()
            if key not in _HOW and key not in hidden
        },
    }
    files = hash_files(tools.checkout.root, tools.checkout.target / "files.json")
    return Inputs(values, files.hashes, files.stamps)


def differences(old: Inputs, new: Inputs) -> list[str]:
    """Return what is not as it was, for people: never a value."""
    changed = [name for name in new.values if old.values.get(name) != new.values[name]]
    gone = [f"{name} is gone" for name in old.values if name not in new.values]
    told = [f"{name} changed" if name in old.values else f"{name} is new" for name in changed]
    told += [f"{p} changed" for p in new.files if old.files.get(p, new.files[p]) != new.files[p]]
    told += [f"{p} is new" for p in sorted(new.files.keys() - old.files.keys())]
    told += [f"{p} is gone" for p in sorted(old.files.keys() - new.files.keys())]
    return [_printable(text) for text in told + gone]


class _Note(BaseModel):
    """What is noted of a receipt: its hash, the digest of its inputs, when it was written.

    `images` and `files` (below `target/`) are what it speaks of, with their digests.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    receipt: str
    inputs: str
    at: Annotated[float, Field(ge=0, le=_END_OF_TIME)]
    images: dict[str, str]
    files: dict[str, str]

    @property
    def when(self) -> str:
        """When it was written: the time, and the date if it was not today."""
        when = datetime.fromtimestamp(self.at).astimezone()
        today = when.date() == datetime.now().astimezone().date()
        return when.strftime("%H:%M" if today else "%Y-%m-%d %H:%M")

    @property
    def released(self) -> str:
        """The release image among its images."""
        return self.images.get("release", "")

    @property
    def wheels(self) -> dict[str, str]:
        """The wheels among its files, by file name."""
        folder = "wheelhouse/"
        return {n.removeprefix(folder): d for n, d in self.files.items() if n.startswith(folder)}


class Ledger:
    """Knows, of each receipt of a checkout, from which inputs it came.

    `inputs` are those of the present run.
    """

    def __init__(self, tools: Tools, inputs: Inputs) -> None:
        self._tools = tools
        self._inputs = inputs
        self._target = tools.checkout.target
        self._notes = self._target / "inputs"
        self._noting = threading.Lock()

    def note(self, stage: str) -> None:
        """Note that the stage's receipt was just written from the present inputs.

        If these are not what they were when the run began, it is not known from which the receipt
        came: the stage will run again.
        """
        from tasks.engine import receipts  # noqa: PLC0415  (a run that is spared needs it not)

        if not shelf.path(self._target, stage).exists():
            return
        with self._noting:
            if changed := self._changed_meanwhile():
                self._note_of(stage).unlink(missing_ok=True)
                self._tools.console.warning(
                    f"{changed} changed while it ran: it will run again next time"
                )
                return
            receipt = receipts.open_sealed(stage, shelf.content(self._target, stage), ())
            note = _Note(
                receipt=self._sealed(stage),
                inputs=self._inputs.digest,
                at=time.time(),
                images=_images(receipt),
                files=_produced(receipt),
            )
            self._notes.mkdir(exist_ok=True)
            _write(self._notes / f"{note.inputs}.json", self._inputs.document)
            _write(self._note_of(stage), note.model_dump())
            self._forget_unused()

    def reason_to_run(self, stage: str) -> str:
        """Return why a stage has to run; empty if its receipt still says all there is to say."""
        if not shelf.path(self._target, stage).exists():
            return "it has no receipt"
        note = self._noted(stage)
        if note is None:
            return "what its receipt was made from is not known"
        if note.receipt != self._sealed(stage):
            return "its receipt is not the one that was written"
        if note.inputs != self._inputs.digest:
            return self._told(note)
        return self._missing(stage, note)

    def age(self, stage: str) -> str:
        """Return when a stage's receipt was written, and how long ago that is."""
        note = self._noted(stage)
        assert note is not None  # noqa: S101  (there is no reason to run it)
        seconds = time.time() - note.at
        if seconds < 0:
            return f"receipt of {note.when}, which is still to come by this clock"
        units = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
        size, unit = next((u for u in units if seconds >= 2 * u[0]), units[-1])
        count = round(seconds / size)
        return f"receipt of {note.when}, {count} {unit}{'' if count == 1 else 's'} old"

    def _changed_meanwhile(self) -> str:
        """Return what is not as it was when the run began; empty if all of it is."""
        root, memory = self._tools.checkout.root, self._target / "files.json"
        if hash_files(root, memory) != (self._inputs.files, self._inputs.stamps):
            return "files"
        images = _beneath(self._tools)
        for name, image in images.items():
            if self._inputs.values[name] not in {"", image}:
                return f"the {name}"
        # What was not there when the run began has been got since.
        self._inputs = replace(self._inputs, values={**self._inputs.values, **images})
        return ""

    def _told(self, note: _Note) -> str:
        document = _read(self._notes / f"{note.inputs}.json")
        if _digest(document) != note.inputs:
            return "what its receipt was made from is not known"
        told = differences(Inputs(**document), self._inputs)
        more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        return f"since {note.when}: {', '.join(told[:_SHOWN])}{more}"

    def _missing(self, stage: str, note: _Note) -> str:
        """Return which thing that a receipt speaks of is not there any more, or another."""
        for name, digest in note.files.items():
            path = self._target / name
            if path.suffix != ".whl" and _sha256_of(path) != digest:
                return f"target/{name} is not the one that was made"
        for name, digest in note.images.items():
            image = self._tools.engine.image(f"sha256:{digest}")
            if image is None or (stage == "image" and not self._has_name(image)):
                return f"the engine has the image {name} no more"
        built = self._noted("image")
        if stage == "acceptance" and built and built.released != note.released:
            return "the release image was built anew since"
        if note.wheels and note.wheels != self._wheels:
            return self._wheels if isinstance(self._wheels, str) else "the wheels are others"
        return ""

    @cached_property
    def _wheels(self) -> dict[str, str] | str:
        """The wheels that are there, or what is wrong with them."""
        try:
            house = wheelhouse.verified(self._tools.checkout)
        except StageFailed as failure:
            return ": ".join([failure.message, *failure.evidence[:1]])
        return {**house.application, **house.dependencies}

    def _has_name(self, image: Image) -> bool:
        """Whether an image still has the name that it was built under, for others to find it."""
        names: list[str] = image.configuration.get("RepoTags") or []
        ours = f"{self._tools.image_prefix}/"
        return any(n.startswith(ours) and not n.startswith(f"{ours}accepted:") for n in names)

    def _noted(self, stage: str) -> _Note | None:
        try:
            return _Note.model_validate_json(self._note_of(stage).read_bytes())
        except (OSError, ValidationError):
            return None

    def _note_of(self, stage: str) -> Path:
        return self._notes / f"{stage}.json"

    def _sealed(self, stage: str) -> str:
        return _sha256(shelf.content(self._target, stage))

    def _forget_unused(self) -> None:
        used = {note.inputs for note in map(self._noted, shelf.STAGES) if note}
        for path in self._notes.glob("?" * 64 + ".json"):
            if path.stem not in used:
                path.unlink(missing_ok=True)


def _images(receipt: Receipt) -> dict[str, str]:
    """Return the images that a receipt speaks of, by name, as digests."""
    judged = {
        name.removeprefix("image:"): thing.digest["sha256"]
        for name, thing in receipt.inputs.items()
        if name.startswith("image:")
    }
    subjects = {n: d for n, d in receipt.subjects.items() if n in {"tests", "release"}}
    return {**judged, **subjects}


def _produced(receipt: Receipt) -> dict[str, str]:
    """Return the files below `target/` that a receipt speaks of, with their digests."""
    inputs = {name: thing.digest.get("sha256", "") for name, thing in receipt.inputs.items()}
    reports = {f"reports/{name}": d for name, d in inputs.items() if name.endswith(".xml")}
    named = {**inputs, **receipt.subjects}
    wheels = {f"wheelhouse/{name}": d for name, d in named.items() if name.endswith(".whl")}
    return {**reports, **wheels}


def fingerprint(tools: Tools) -> str:
    """Return what changes if a secret changes that results depend on.

    The key that signs them is among these. It tells nothing about them to anybody else.
    """
    place = tools.checkout.target / "secrets" / "fingerprint"
    if not place.exists():
        if tools.dry:
            return ""
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.touch(mode=0o600)
        place.write_bytes(secrets.token_bytes(32))
    settings = tools.settings
    values = {
        key: value
        for key, value in settings.compose_environment().items()
        if key in settings.secret_keys and key not in _HOW
    }
    in_file = _sha256_of(tools.checkout.root / settings.signing_key_file)
    text = json.dumps([values, settings.signing_key or in_file], sort_keys=True)
    return hmac.new(place.read_bytes(), text.encode(), "sha256").hexdigest()


# --- files ---------------------------------------------------------------------------------------


class Files(NamedTuple):
    """The files and folders that results depend on, by path from the root.

    `hashes` are of mode, and content or link; `stamps` what the file system says of each file: it
    says another thing after any change, also of one that was taken back.
    """

    hashes: dict[str, str]
    stamps: dict[str, list[int]]


def hash_files(root: Path, memory: Path) -> Files:
    """Return the files and folders below `PATHS`, with their hashes.

    What has not changed since it was read last, as far as the file system tells, is not read again;
    `memory` is where that is kept. Raises Misconfigured if one may not be read.
    """
    try:
        return _hash_files(root, memory)
    except PermissionError as error:
        raise Misconfigured(
            f"{error.filename} may not be read", hint="builds need all of app/ and compose/"
        ) from error


def _hash_files(root: Path, memory: Path) -> Files:
    known = _read(memory)
    began = time.time()
    remembered: dict[str, list[Any]] = {}
    files = Files({}, {})
    for name, path, status in _files(root):
        if stat.S_ISDIR(status.st_mode):  # its times tell of caches too
            files.hashes[name] = _file_hash(path, status)
            continue
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino,
                 status.st_mode]  # fmt: skip
        match known.get(name):
            case [before, str(value)] if before == stamp:
                pass
            case _:
                value = _file_hash(path, status)
        files.hashes[name] = value
        files.stamps[name] = stamp
        if max(status.st_mtime, status.st_ctime) < began - _RACY_SECONDS:
            remembered[name] = [stamp, value]
    if remembered != known and memory.parent.exists():
        _write(memory, remembered)
    return files


def _files(root: Path) -> Iterator[tuple[str, str, os.stat_result]]:
    """Yield what is below `PATHS`: its path from `root`, its path, and what it is.

    What links lead to is yielded too. Not so below `app/`: a build copies links as they are.
    """
    top = os.path.realpath(root)
    waiting = [(os.path.realpath(os.path.join(top, name)), name != "app") for name in PATHS]  # noqa: PTH118
    followed: set[str] = set()
    while waiting:
        path, follow = waiting.pop()
        try:
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                with os.scandir(path) as entries:
                    waiting += [(e.path, follow) for e in entries if e.name not in CACHES]
        except (FileNotFoundError, NotADirectoryError):
            continue  # there is none, or none any more: editors replace files while we look
        inside = path.startswith(top + os.sep)
        yield path[len(top) + 1 :] if inside else os.path.relpath(path, top), path, status
        if follow and stat.S_ISLNK(status.st_mode):
            target = os.path.realpath(path)
            if target not in followed and os.path.commonpath([target, top]) != target:
                followed.add(target)
                waiting.append((target, follow))


def _file_hash(path: str, status: os.stat_result) -> str:
    content = b""
    with suppress(FileNotFoundError):  # gone just now: nobody will find it unchanged
        if stat.S_ISLNK(status.st_mode):
            content = os.fsencode(Path(path).readlink())
        elif stat.S_ISREG(status.st_mode):
            content = Path(path).read_bytes()
    return _sha256(f"{status.st_mode:o}\0".encode() + content)


def _beneath(tools: Tools) -> dict[str, str]:
    """Return the IDs of the images that builds start from; empty for one the engine has not."""
    settings = tools.settings.compose_environment()
    named = {f"image of {key}": settings[key] for key in _STARTS if settings[key]}
    found = {"base image": base.find(tools), **named}
    images = {name: tools.engine.image(image) if image else None for name, image in found.items()}
    return {name: image.id if image else "" for name, image in images.items()}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sha256_of(path: Path) -> str:
    """Return the hash of what is in a file; empty if there is none that could be read."""
    try:
        return _sha256(path.read_bytes())
    except OSError:
        return ""


def _digest(document: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(document, sort_keys=True).encode())


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _write(path: Path, document: Any) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(document), encoding="utf-8")
    temporary.replace(path)
