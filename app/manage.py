#!/usr/bin/env python3
"""The same as the installed ``manage.py``, from a checkout."""

from todo.manage import main

if __name__ == "__main__":
    main()
