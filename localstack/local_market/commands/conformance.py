"""`make localstack-test`: the end-to-end suite on LocalStack's open-source core; arguments go to pytest."""

import os
import sys
from pathlib import Path

from set_up import NO_PYTHON_FOR_LOCALSTACK

from local_market.emulators.localstack_core import PYTHON
from local_market.parts.places import CHECKOUT, LOCAL

SUITE = "tests/e2e/test_trades.py"


def main() -> None:
    """Say what the suite runs on, then become pytest; where the core cannot be, say so instead."""
    if not PYTHON.exists():
        print(f"SKIPPED: {NO_PYTHON_FOR_LOCALSTACK}")
        return
    print(
        f"On LocalStack's open-source core {_version('localstack', 'localstack_core')} in host mode,"
        f" IoT borrowed from MiniStack {_version('ministack', 'ministack')} (docs/emulators.md).",
        flush=True,
    )
    os.environ["LOCAL_AWS"] = "localstack"
    os.chdir(CHECKOUT)
    os.execv(  # noqa: S606 - it becomes it, and so gets its signals
        sys.executable, [sys.executable, "-m", "pytest", "-p", "no:xdist", SUITE, *sys.argv[1:]]
    )


def _version(environment: str, package: str) -> str:
    """The version of a package in one of the environments."""
    (found,) = (LOCAL / environment).glob(f"lib/python3*/site-packages/{package}-*.dist-info")
    return Path(found).name.removesuffix(".dist-info").partition("-")[2]
