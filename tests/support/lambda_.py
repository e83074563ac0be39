"""The functions as they are packed for Lambda: a package each, the layer, what the runtime brings; and one running."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any, Final, cast

from tests.support.api import FUNCTIONS, Client

NAMES: Final = sorted(path.parent.name for path in FUNCTIONS.glob("*/app.py"))
# AWS's Python runtimes bring these.
OF_THE_RUNTIME: Final = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3")


def pack(*arguments: str | Path) -> None:
    """Run infra/pack.py for this machine and its interpreter."""
    host = "aws" if (sys.platform, platform.machine()) == ("linux", "x86_64") else "host"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run(
        [sys.executable, FUNCTIONS.parent / "infra" / "pack.py", *arguments],
        env={**os.environ, "LAMBDA_PYTHON": version, "LAMBDA_PLATFORM": host},
        check=True,
    )


def link_runtime(folder: Path) -> None:
    """Put what the runtime itself brings into `folder`, and nothing else of the environment that this runs in."""
    for name in OF_THE_RUNTIME:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin)
        path = path.parent if path.name == "__init__.py" else path
        (folder / path.name).symlink_to(path)


def size_bytes(folder: Path) -> int:
    """All files below it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


# Events in, answers out, a line each; at last what is imported. What it logs goes to standard output, too: put aside.
PROGRAM = """
import json, sys
sys.path[:0] = {paths}
answers, sys.stdout = sys.stdout, sys.stderr
import app
print(json.dumps(list(app.app.routes)), file=answers, flush=True)
for line in sys.stdin:
    print(json.dumps(app.app(json.loads(line), None)), file=answers, flush=True)
print(json.dumps(list(sys.modules)), file=answers, flush=True)
"""


class Sandbox:
    """A packed function in an interpreter of its own, which finds `paths` and nothing else; and its client."""

    def __init__(self, paths: Sequence[Path], environment: Mapping[str, str]) -> None:
        program = PROGRAM.format(paths=[str(path) for path in paths])
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._app = _App(self._process.stdin, self._process.stdout)
        self.client = Client(cast(ModuleType, SimpleNamespace(app=self._app)))

    def imported(self) -> set[str]:
        """Every module that it has loaded. It ends."""
        self._app.events.close()
        return set(self._app.read())

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._app.events.close()
        self._app.answers.close()


class _App:
    """The Chalice app on the other side of the pipes."""

    def __init__(self, events: IO[str], answers: IO[str]) -> None:
        self.events = events
        self.answers = answers
        self._routes: dict[str, None] | None = None

    @property
    def routes(self) -> dict[str, None]:
        """Known once it has started."""
        if self._routes is None:
            self._routes = dict.fromkeys(self.read())
        return self._routes

    def __call__(self, event: object, _context: None) -> Any:  # noqa: ANN401 - the answer's JSON
        self.events.write(json.dumps(event) + "\n")
        self.events.flush()
        return self.read()

    def read(self) -> Any:  # noqa: ANN401
        return json.loads(self.answers.readline())
