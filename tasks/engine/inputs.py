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
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.engine import base, shelf
from tasks.engine.source import Source
from tasks.engine.tools import Tools
from tasks.errors import Misconfigured

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
        text = json.dumps(self.document, sort_keys=True)
        return _sha256(text.encode())

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
        "base image": _base_id(tools),
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
    return told + gone


class Ledger:
    """Knows, of each receipt of a checkout, from which inputs it came.

    `inputs` are those of the present run.
    """

    def __init__(self, tools: Tools, inputs: Inputs) -> None:
        self._tools = tools
        self._inputs = inputs
        self._target = tools.checkout.target

    def note(self, stage: str) -> None:
        """Note that the stage's receipt was just written from the present inputs.

        If the files are not what they were when the run began, it is not known from which the
        receipt came: the stage will run again.
        """
        from tasks.engine import receipts  # noqa: PLC0415  (a run that is spared needs it not)

        if not shelf.path(self._target, stage).exists():
            return
        root, memory = self._tools.checkout.root, self._target / "files.json"
        if hash_files(root, memory) != (self._inputs.files, self._inputs.stamps):
            self._tools.console.warning("files changed while it ran: it will run again next time")
            return
        receipt = receipts.open_sealed(stage, shelf.content(self._target, stage), ())
        notes = self._target / "inputs"
        notes.mkdir(exist_ok=True)
        _write(notes / f"{self._inputs.digest}.json", self._inputs.document)
        about = {
            "receipt": self._sealed(stage),
            "inputs": self._inputs.digest,
            "at": time.time(),
            "images": _images(receipt),
            "files": _produced(receipt),
        }
        _write(notes / f"{stage}.json", about)
        self._forget_unused(notes)

    def reason_to_run(self, stage: str) -> str:
        """Return why a stage has to run; empty if its receipt still says all there is to say."""
        about = _read(self._target / "inputs" / f"{stage}.json")
        if not about or not shelf.path(self._target, stage).exists():
            return "it has no receipt"
        if about["receipt"] != self._sealed(stage):
            return "its receipt is not the one that was written"
        if about["inputs"] != self._inputs.digest:
            return self._told(about)
        return self._missing(about)

    def age(self, stage: str) -> str:
        """Return when a stage's receipt was written, and how long ago that is."""
        about = json.loads((self._target / "inputs" / f"{stage}.json").read_text("utf-8"))
        seconds = max(0.0, time.time() - about["at"])
        units = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
        size, unit = next((u for u in units if seconds >= 2 * u[0]), units[-1])
        return f"receipt of {_at(about)}, {seconds / size:.0f} {unit} old"

    def _told(self, about: Mapping[str, Any]) -> str:
        try:
            path = self._target / "inputs" / f"{about['inputs']}.json"
            before = Inputs(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError):
            return "what it was made from is not known any more"
        told = differences(before, self._inputs)
        more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        return f"since {_at(about)}: {', '.join(told[:_SHOWN])}{more}"

    def _missing(self, about: Mapping[str, Any]) -> str:
        """Return which thing that a receipt speaks of is not there any more, or another."""
        for name, digest in about["files"].items():
            path = self._target / name
            if path.is_symlink() or not path.is_file() or _sha256(path.read_bytes()) != digest:
                return f"target/{name} is not the one that was made"
        for name, image in about["images"].items():
            if self._tools.engine.image(f"sha256:{image}") is None:
                return f"the engine has the image {name} no more"
        return ""

    def _sealed(self, stage: str) -> str:
        return _sha256(shelf.content(self._target, stage))

    def _forget_unused(self, trees: Path) -> None:
        notes = [trees / f"{stage}.json" for stage in shelf.STAGES]
        used = {json.loads(n.read_text("utf-8"))["inputs"] for n in notes if n.exists()}
        for path in trees.glob("?" * 64 + ".json"):
            if path.stem not in used:
                path.unlink(missing_ok=True)


def _images(receipt: Receipt) -> dict[str, str]:
    """Return the images that a receipt speaks of, by name, as digests."""
    judged = {n: t.digest["sha256"] for n, t in receipt.inputs.items() if n.startswith("image:")}
    subjects = {n: d for n, d in receipt.subjects.items() if n in {"tests", "release"}}
    return {**judged, **subjects}


def _produced(receipt: Receipt) -> dict[str, str]:
    """Return the files below `target/` that a receipt speaks of, with their digests."""
    reports = {
        f"reports/{name}": thing.digest["sha256"]
        for name, thing in receipt.inputs.items()
        if name.endswith(".xml")
    }
    wheels = {f"wheelhouse/{n}": d for n, d in receipt.subjects.items() if n.endswith(".whl")}
    return {**reports, **wheels}


def fingerprint(tools: Tools) -> str:
    """Return what changes if a secret changes, and tells nothing about it to anybody else."""
    place = tools.checkout.target / "secrets" / "fingerprint"
    if not place.exists():
        if tools.dry:
            return ""
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.touch(mode=0o600)
        place.write_bytes(secrets.token_bytes(32))
    text = "\0".join(tools.settings.secrets())
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


def _base_id(tools: Tools) -> str:
    name = base.find(tools)
    image = tools.engine.image(name) if name else None
    return image.id if image else ""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _at(about: Mapping[str, Any]) -> str:
    return datetime.fromtimestamp(about["at"]).astimezone().strftime("%H:%M")


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _write(path: Path, document: Any) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(document, default=dict), encoding="utf-8")
    temporary.replace(path)
