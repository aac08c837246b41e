"""Django's command line."""

import os
import sys

from django.core.management import execute_from_command_line


def main() -> None:
    """Run a management command, with the release settings unless told otherwise."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "todo.settings.release")
    execute_from_command_line(sys.argv)
