"""Programs from Debian's packages that some tests run. Nobody here installs them: a test without its own is skipped.

Each program is looked for in one place, so a run's summary counts the tests that were skipped for it in one line.
"""

import os
import shutil
from pathlib import Path
from typing import Final

import pytest

PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
"""Debian puts servers into /usr/sbin, which an ordinary user's PATH may not have."""


def pgbouncer() -> Path:
    """The pooler PgBouncer. It refuses to run as root."""
    return _found("pgbouncer") or pytest.skip("needs PgBouncer: `apt-get install pgbouncer`")


def mosquitto() -> Path:
    """The MQTT broker mosquitto."""
    return _found("mosquitto") or pytest.skip("needs mosquitto: `apt-get install mosquitto`")


def _found(name: str) -> Path | None:
    found = shutil.which(name, path=PATH)
    return None if found is None else Path(found)
