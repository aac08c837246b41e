"""Settings from environment variables."""

import re
from collections.abc import Mapping

from django.core.exceptions import ImproperlyConfigured

# A name or an address without scheme, port or wildcard.
HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]", re.IGNORECASE)
# As Django's own deployment check demands.
SECRET_LENGTH = 50
MAX_PORT = 65535


class Environment:
    """Reads variables and collects what is wrong with them, to report it all at once.

    A variable that is empty counts as missing. Values are never reported: they may be secret.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = variables
        self.problems: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        """Return a variable, which is required if there is no default."""
        value = self.variables.get(name) or default
        if not value:
            self.problems.append(f"{name} is missing")
        return value

    def secret(self, name: str) -> str:
        """Return a key that is not too short to be one."""
        value = self.text(name)
        if value and len(value) < SECRET_LENGTH:
            self.problems.append(f"{name} has less than {SECRET_LENGTH} characters")
        return value

    def hosts(self, name: str) -> list[str]:
        """Return explicit host names, separated by commas."""
        value = self.text(name)
        hosts = [host.strip() for host in value.split(",") if host.strip()]
        if value and not (hosts and all(map(HOST.fullmatch, hosts))):
            self.problems.append(f"{name} has to be a list of host names such as a.example,[::1]")
        return hosts

    def port(self, name: str, default: str) -> str:
        """Return the number of a port."""
        value = self.text(name, default)
        if not (re.fullmatch("[0-9]{1,5}", value) and 0 < int(value) <= MAX_PORT):
            self.problems.append(f"{name} has to be the number of a port")
        return value

    def switch(self, name: str, default: str) -> bool:
        """Return whether a variable is on rather than off."""
        value = self.text(name, default)
        if value not in {"on", "off"}:
            self.problems.append(f"{name} has to be on or off")
        return value == "on"

    def check(self) -> None:
        """Raise an error that names all that is wrong."""
        if self.problems:
            raise ImproperlyConfigured(f"Environment: {', '.join(self.problems)}.")
