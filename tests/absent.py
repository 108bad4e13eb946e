"""What a test needs and a machine may lack."""

import os
from typing import NoReturn

import pytest


def without(reason: str) -> NoReturn:
    """Skips a test, loudly; where the environment variable CI is set it fails, so that nothing there stays untested."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
