"""Writes the receipts: what passed, judged or made with what, when, and by whom."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime

from tasks.engine import receipts, shelf, wheelhouse
from tasks.engine.environments import ReleaseEnvironment, TestEnvironment
from tasks.engine.inputs import fingerprint
from tasks.engine.receipts import Thing
from tasks.engine.reports import Counts
from tasks.engine.shelf import Stage
from tasks.engine.source import Source
from tasks.engine.tools import Tools
from tasks.errors import Misconfigured

VERSION = "0.1.0"  # a test holds it against pyproject.toml


class Witness:
    """Sees stages pass, and signs for it if the settings name a key.

    `run` is the ID of the run it sees.
    """

    def __init__(self, tools: Tools, source: Source, run: str) -> None:
        self._tools = tools
        self._source = source
        self._run = run
        self._started = _now()
        self._target = tools.checkout.target

    def tests(self, stage: Stage, environment: TestEnvironment, counts: Counts | None) -> None:
        """Write the receipt of unit or integration tests. The subject is the image they are in."""
        if counts is None:
            return
        images = environment.images_in_use()
        service = next(one.service for one in environment.roles.tests if one.name == stage)
        subject = receipts.image("tests", images[service])
        beside = [
            receipts.image(f"image:{name}", image)
            for name, image in images.items()
            if name == environment.roles.database.service and stage == "integration"
        ]
        inputs = [*self._common(environment.configuration), *beside, *self._report(stage, counts)]
        self._write(stage, receipts.test_result([subject], inputs, counts.names))

    def wheels(self, base: str) -> None:
        """Write the receipt of the wheelhouse; `base` is the ID of the base image."""
        if self._tools.dry:
            return
        house = wheelhouse.verified(self._tools.checkout)
        subjects = [*_wheels(house.application), *_wheels(house.dependencies)]
        inputs = [*self._commit(), receipts.image("image:base", base)]
        self._write("wheels", receipts.provenance(subjects, inputs, self._metadata()))

    def image(self, image_id: str, base: str) -> None:
        """Write the receipt of the release image: built from these wheels, on this base."""
        if self._tools.dry:
            return
        house = wheelhouse.verified(self._tools.checkout)
        inputs = [
            *self._commit(),
            receipts.image("image:base", base),
            *_wheels(house.application),
            *_wheels(house.dependencies),
        ]
        subject = receipts.image("release", image_id)
        self._write("image", receipts.provenance([subject], inputs, self._metadata()))

    def acceptance(self, environment: ReleaseEnvironment, counts: Counts | None) -> None:
        """Write the receipt of the acceptance: of the image that ran, and the wheels in it.

        Tests against an environment that was there before prove less: there is no receipt of them.
        """
        if counts is None:
            return
        if environment.own:
            self._tools.console.note("no receipt: the environment is not one made for these tests")
            return
        house = wheelhouse.verified(self._tools.checkout)
        images = environment.images_in_use()
        roles = environment.roles
        judges = {roles.database.service, roles.frontend.service, *(t.service for t in roles.tests)}
        inputs = [
            *self._common(environment.configuration),
            *(receipts.image(f"image:{name}", images[name]) for name in sorted(judges)),
            *self._report("acceptance", counts),
        ]
        subjects = [
            receipts.image("release", images[roles.application]),
            *_wheels(house.application),
            *_wheels(house.dependencies),
        ]
        self._write("acceptance", receipts.test_result(subjects, inputs, counts.names))
        # Whatever is built later, this image stays until `clean`: it may be published yet.
        self._tools.engine.tag(
            images[roles.application], f"{self._tools.image_prefix}/accepted:latest"
        )

    # --- what all of them say --------------------------------------------------------------------

    def _common(self, configuration: str) -> list[Thing]:
        settings = self._tools.settings
        return [
            *self._commit(),
            Thing("environment", uri=f"seatrial:environment:{settings.name}"),
            Thing("configuration", {"sha256": hashlib.sha256(configuration.encode()).hexdigest()}),
            Thing("secrets", {"hmac-sha256": fingerprint(self._tools)}),
            Thing("seatrial", uri=builder()),
            Thing("run", uri=f"seatrial:run:{self._run}",
                  notes={"started": self._started, "finished": _now()}),
        ]  # fmt: skip

    def _commit(self) -> list[Thing]:
        source = self._source
        commit = source.revision.removesuffix("-dirty")
        dirty = {"dirty": "yes" if source.dirty else "no"}
        return [Thing("source", {"gitCommit": commit}, uri=source.address, notes=dirty)]

    def _report(self, name: str, counts: Counts) -> list[Thing]:
        content = (self._target / "reports" / f"{name}.xml").read_bytes()
        notes = {part: str(getattr(counts, part)) for part in ("passed", "failed", "skipped")}
        return [Thing(f"{name}.xml", {"sha256": hashlib.sha256(content).hexdigest()}, notes=notes)]

    def _metadata(self) -> dict[str, str]:
        return {
            "builder": builder(),
            "id": self._run,
            "started": self._started,
            "finished": _now(),
            "environment": self._tools.settings.name,
        }

    def _write(self, stage: Stage, statement: bytes) -> None:
        key = signing_key(self._tools)
        shelf.write(
            self._target, stage, receipts.seal(statement, receipts.signer(key) if key else None)
        )


def signing_key(tools: Tools) -> str:
    """Return the private key that the settings name, in PEM; empty if they name none."""
    return tools.settings.signing_key or _text_of(tools, "SIGNING_KEY_FILE")


def trusted_keys(tools: Tools) -> str:
    """Return the public keys that the settings trust, in PEM; empty if they name none."""
    return tools.settings.trusted_keys or _text_of(tools, "TRUSTED_KEYS_FILE")


def builder() -> str:
    """Return what made or judged something: this collection, in its version."""
    return f"pkg:pypi/seatrial@{VERSION}"


def _text_of(tools: Tools, key: str) -> str:
    name: str = getattr(tools.settings, key.lower())
    if not name:
        return ""
    try:
        text = (tools.checkout.root / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{key}: {name} cannot be read", evidence=[str(error)]) from None
    if not text.strip():
        raise Misconfigured(f"{key}: {name} is empty")
    return text


def _wheels(hashes: Mapping[str, str]) -> list[Thing]:
    return [Thing(name, {"sha256": digest}) for name, digest in sorted(hashes.items())]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
