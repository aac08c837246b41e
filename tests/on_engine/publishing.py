"""What the tests of publishing share: an accepted release, and where it may be published to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.on_engine.faulty import FaultyProxy
from tests.on_engine.servers import Harbour, Index, Registry

if TYPE_CHECKING:
    from tests.on_engine.conftest import CheckoutUnderTest, NewCheckout, Result

# An environment that publishes to others. Where to, and with which keys, each test says.
SHARED = """\
GENERATED_SECRETS=APP_SECRET_KEY,APP_DB_PASSWORD
APP_HTTPS=off
APP_ALLOWED_HOSTS=localhost,127.0.0.1,nginx
APP_DB_NAME=todo
APP_DB_USER=todo
PUBLISH=on
"""
VERSION = "v1.0"
EVIDENCE = sorted([
    "acceptance.json", "acceptance.xml", "image.json", "integration.json", "integration.xml",
    "sbom.cdx.json", "unit.json", "unit.xml", "wheels.json",
])  # fmt: skip


@dataclass(frozen=True)
class SigningKey:
    """A key pair in files."""

    private: Path
    public: Path

    @classmethod
    def made(cls, folder: Path, name: str) -> SigningKey:
        key = Ed25519PrivateKey.generate()
        private, public = folder / f"{name}.pem", folder / f"{name}.pub"
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        public.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        return cls(private, public)


@dataclass
class Release:
    """A checkout whose release was accepted, in one environment after the other.

    What is in `target/` then is kept, and can be had back at any time.
    """

    checkout: CheckoutUnderTest
    kept: Path
    published: Result

    @property
    def target(self) -> Path:
        return self.checkout.root / "target"

    @property
    def revision(self) -> str:
        return self.checkout.git("rev-parse", VERSION).strip()

    @property
    def short(self) -> str:
        return self.revision[:12]

    @property
    def image_id(self) -> str:
        """The ID of the accepted image."""
        return str(self.checkout.client.images.get(f"{self.checkout.image('kept')}:latest").id)

    @property
    def wheels(self) -> dict[str, str]:
        """The accepted wheels by name, with their SHA-256."""
        house = json.loads((self.kept / "local" / "wheelhouse.json").read_text())
        return {**house["application"], **house["dependencies"]}

    def keep(self, environment: str) -> None:
        """Keep what was accepted in an environment."""
        shutil.copytree(self.target, self.kept / environment)
        # Whatever the tests do to its names.
        image = self.checkout.client.images.get(f"{self.checkout.image('accepted', environment)}")
        image.tag(self.checkout.image("kept"), "latest")

    def restore(self, environment: str = "local") -> None:
        """Put sources and `target/` back as they were when the release had been accepted."""
        self.checkout.give_up()
        self.checkout.git("checkout", "--quiet", "--force", "main")
        self.checkout.git("reset", "--quiet", "--hard", VERSION)
        self.checkout.git("clean", "--quiet", "--force", "-d")
        shutil.rmtree(self.target)
        shutil.copytree(self.kept / environment, self.target)


@dataclass
class Port:
    """A registry and an index of others, with a faulty proxy before each; a repository there."""

    release: Release
    registry: Registry
    index: Index
    to_registry: FaultyProxy
    to_index: FaultyProxy
    repository: str
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def checkout(self) -> CheckoutUnderTest:
        return self.release.checkout

    @property
    def reference(self) -> str:
        return f"{self.to_registry.address}/{self.repository}"

    def variables(self, **more: str) -> dict[str, str]:
        return {
            "REGISTRY": self.to_registry.address,
            "REPOSITORY": self.repository,
            "INDEX_URL": f"http://{self.to_index.address}/",
            **self.settings,
            **more,
        }

    def passes(self, *goals: str, **more: str) -> Result:
        return self.checkout.passes(*goals, **self.variables(**more))

    def fails(self, code: int, *goals: str, says: tuple[str, ...], **more: str) -> Result:
        """Run invoke, which has to fail with `code` and say what is expected."""
        # The servers are of this checkout: they are left.
        return self.checkout.fails(code, *goals, says=says, keeps=True, **self.variables(**more))

    def holds(self) -> dict[str, str]:
        """Return the IDs of the images that the registry has, by tag; no fallback tags."""
        return {
            tag: self.registry.image_id(self.repository, tag)
            for tag in self.registry.tags(self.repository)
            if not tag.startswith("sha256-")
        }

    def attached(self) -> list[str]:
        """Return the titles of what is attached to the image, by the fallback tag."""
        return attached(self.registry, self.repository, self.release.short)

    def require_empty(self) -> None:
        """Check that nothing at all has arrived."""
        assert self.registry.tags(self.repository) == []
        assert self.index.files() == {}

    def require_untouched(self) -> None:
        """Check that nobody was even asked."""
        assert self.to_registry.requests == self.to_index.requests == []
        self.require_empty()

    def require_complete(self) -> None:
        """Check that all of the release is there."""
        release = self.release
        assert self.holds() == dict.fromkeys(
            sorted([release.short, VERSION, "latest"]), release.image_id
        )
        assert self.attached() == EVIDENCE
        assert self.index.files() == release.wheels


def attached(registry: Registry, repository: str, tag: str) -> list[str]:
    """Return the titles of what is attached to the image of a tag, by the fallback tag."""
    digest = registry.digest(repository, tag)
    index = registry.manifest(repository, digest.replace(":", "-"))
    return sorted(
        one["annotations"]["org.opencontainers.image.title"] for one in index.get("manifests", [])
    )


# --- fixtures ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    """Return the key that signs the receipts of the environment `shared`."""
    return SigningKey.made(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="session")
def released(
    new_checkout: NewCheckout, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    """Accept a release in the environment `local`, and publish it on this machine."""
    checkout = new_checkout("released")
    checkout.write("env/shared.env", SHARED)
    checkout.git("tag", VERSION)
    checkout.git("tag", "--delete", "as-it-is")
    release = Release(checkout, tmp_path_factory.mktemp("kept"), checkout.passes("publish"))
    release.keep("local")
    yield release
    checkout.git("tag", "as-it-is", VERSION)


@pytest.fixture
def release(released: Release) -> Iterator[Release]:
    """Return the accepted release; a test may do with the checkout what it likes."""
    yield released
    released.restore()


@pytest.fixture(scope="session")
def shared_acceptance(released: Release, signing_key: SigningKey) -> Release:
    """Accept the release in the environment `shared` too, with signed receipts."""
    released.restore()
    released.checkout.passes(
        "release.acceptance", INVOKE_ENV="shared", SIGNING_KEY_FILE=str(signing_key.private)
    )
    released.keep("shared")
    released.restore()
    return released


@pytest.fixture
def shared_release(release: Release, shared_acceptance: Release) -> Release:
    """Return the release as it was accepted in the environment `shared`."""
    assert release is shared_acceptance
    release.restore("shared")
    return release


@pytest.fixture(scope="session")
def harbour(released: Release) -> Iterator[Harbour]:
    """Return where registries and indexes are run."""
    harbour = Harbour(released.checkout)
    yield harbour
    harbour.close()


@pytest.fixture(scope="session")
def _servers(harbour: Harbour) -> tuple[Registry, Index]:
    return harbour.registry(), harbour.index()


@pytest.fixture(scope="session")
def _proxies(_servers: tuple[Registry, Index]) -> Iterator[tuple[FaultyProxy, FaultyProxy]]:
    registry, index = _servers
    with FaultyProxy(lambda: registry.address) as one, FaultyProxy(lambda: index.address) as two:
        yield one, two


@pytest.fixture(scope="session")
def new_repository() -> Callable[[], str]:
    """Return a function that returns the name of a repository that nobody has used yet."""
    numbers = count(1)
    return lambda: f"tests/number-{next(numbers)}"


@pytest.fixture
def port(
    release: Release,
    _servers: tuple[Registry, Index],
    _proxies: tuple[FaultyProxy, FaultyProxy],
    new_repository: Callable[[], str],
) -> Port:
    """Return an empty repository and an empty index; the proxies are good until told otherwise."""
    registry, index = _servers
    index.empty()
    for proxy in _proxies:
        proxy.clear()
    return Port(release, registry, index, *_proxies, new_repository())


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file."""
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def without_secrets(result: Result, folder: Path, secrets: Mapping[str, str]) -> None:
    """Check that none of `secrets` is in a command's output, or in any file of a folder."""
    texts = {"out": result.out.encode(), "err": result.err.encode()}
    texts |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for what, secret in secrets.items():
        for where, text in texts.items():
            assert secret.encode() not in text, f"{what} is in {where}"
