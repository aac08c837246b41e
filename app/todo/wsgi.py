"""The WSGI application."""

import os

import django
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "todo.settings.release")


class Utf8Request(WSGIRequest):
    """A request in UTF-8, as JSON has to be, whatever charset its content type names.

    Django would decode with any of Python's codecs, and fails ahead of its error handling with
    those that are no text encodings, such as zlib.
    """

    encoding = property(lambda _self: "utf-8", lambda _self, _value: None)


class Application(WSGIHandler):
    """Django's handler for such requests."""

    request_class = Utf8Request


django.setup(set_prefix=False)
application = Application()
