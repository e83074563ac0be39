"""Cold starts: what each function's import costs beside the third-party packages that it needs in any case."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from bench.measure import Row, Table, alternated, median, ms
from tests.api import ENVIRONMENT, FUNCTIONS

BARE = "chalice.app, psycopg, jwt, msgspec"
"""What every API function needs. Imported by one interpreter: modules that two of them share are counted once."""

API = sorted(path.name for path in FUNCTIONS.glob("*_api"))
OTHERS = sorted(path.parent.name for path in FUNCTIONS.glob("*/app.py") if path.parent.name not in API)
AT_MOST = 1.3


def measure(*, quick: bool) -> Iterator[Row | Table]:
    """Import each function in fresh interpreters, in turn with the bare packages."""
    imports = {
        "bare packages": partial(seconds_of, BARE),
        **{name: partial(seconds_of, "app", FUNCTIONS / name) for name in (*API, *OTHERS)},
    }
    imports["bare packages"]()  # writes the byte code of whatever has none yet
    taken = alternated(imports, rounds=3 if quick else 11)
    bare_s = median(taken["bare packages"])
    yield Table(
        title=f"A fresh interpreter imports (medians); the bare packages are {BARE}",
        columns=["what", "ms", "times the bare packages"],
        lines=[[name, median(seconds) * 1000, median(seconds) / bare_s] for name, seconds in taken.items()],
    )
    for name in API:
        import_s = median(taken[name])
        yield Row(
            name=f"Cold start of {name}: its import, in bare third-party imports",
            measured=import_s / bare_s,
            at_most=AT_MOST,
            shown=f"{ms(import_s)} against {ms(bare_s)}",
        )


def seconds_of(modules: str, *folders: object) -> float:
    """Seconds that a fresh interpreter takes for `import modules`, its own start not counted."""
    program = f"import sys, time\nbegan = time.perf_counter()\nimport {modules}\nprint(time.perf_counter() - began)"
    environment = {
        **os.environ,
        **ENVIRONMENT,
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "AWS_REGION": "us-east-1",
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
    }
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=FUNCTIONS, capture_output=True, text=True, check=True
    )
    return float(result.stdout.split()[-1])
