"""All of these tests use the database."""

import pytest


@pytest.fixture(autouse=True)
def _database(db):
    """Run each test in a transaction that is rolled back."""
