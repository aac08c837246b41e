"""How request bodies are read."""

from typing import Any

from rest_framework import parsers
from rest_framework.exceptions import ParseError


class JSONParser(parsers.JSONParser):
    """DRF's parser, which lets a body nested too deeply for Python end in a server error."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        """Return the parsed body; raise `ParseError` for any body which cannot be parsed."""
        try:
            return super().parse(*args, **kwargs)
        except RecursionError as error:
            raise ParseError("JSON parse error - nested too deeply") from error
