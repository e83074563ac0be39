"""Cold starts: the artifacts as they are packed for Lambda, and what importing them costs.

Everything is imported from the packed layer and functions, compiled for this interpreter, and nothing else of this
environment: PyJWT, for one, would import `cryptography` if it found it.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from bench.measure import Row, Table, alternated, median, ms
from tests.support.api import ENVIRONMENT
from tests.support.lambda_ import NAMES, link_runtime, pack, size_bytes

BARE: Final = ("chalice.app", "psycopg", "jwt", "msgspec")
"""The third-party packages that every API function needs."""
AT_MOST_THE_BARE: Final = 1.3
AT_MOST_FUNCTION_MB: Final = 1.0
AT_MOST_LAYER_MB: Final = 40.0
WITH_PACKAGES_OF_ITS_OWN: Final = "settlement"


def measure(*, quick: bool) -> Iterator[Row | Table]:
    """Pack layer and functions, weigh them, and import each function in fresh interpreters."""
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        layer, runtime, functions = folder / "layer", folder / "runtime", {name: folder / name for name in NAMES}
        pack("layer", layer)
        for name, place in functions.items():
            pack("function", name, place)
        runtime.mkdir()
        link_runtime(runtime)
        layer /= "python"
        yield from weights(layer, functions)
        yield from imports(functions, [layer, runtime], rounds=3 if quick else 15)


def weights(layer: Path, functions: dict[str, Path]) -> Iterator[Row | Table]:
    """What is uploaded."""
    size_mb = {name: megabytes(folder) for name, folder in functions.items()}
    yield Table(
        title="Packed, unzipped",
        columns=["what", "MB", "modules", "compiled"],
        lines=[
            (name, megabytes(folder), *compiled(folder)) for name, folder in {"the layer": layer, **functions}.items()
        ],
    )
    heaviest = max(functions.keys() - {WITH_PACKAGES_OF_ITS_OWN}, key=lambda name: size_mb[name])
    yield Row(
        name=f"Lambda artifact: the heaviest function but {WITH_PACKAGES_OF_ITS_OWN}",
        measured=size_mb[heaviest],
        at_most=AT_MOST_FUNCTION_MB,
        unit="MB",
        shown=heaviest,
    )
    yield Row(
        name="Lambda artifact: the layer, unzipped", measured=megabytes(layer), at_most=AT_MOST_LAYER_MB, unit="MB"
    )
    sources, byte_code = map(sum, zip(*(compiled(folder) for folder in (layer, *functions.values())), strict=True))
    yield Row(
        name="Lambda artifact: share of the modules that are byte-compiled",
        measured=byte_code / sources,
        at_least=1,
        unit="of 1",
        shown=f"{byte_code:,} of {sources:,}",
    )


def imports(functions: dict[str, Path], beside: list[Path], *, rounds: int) -> Iterator[Row | Table]:
    """What importing each function takes, beside the bare packages."""
    together = "the four bare packages, one interpreter"
    runs = {module: partial(seconds_of, module, beside) for module in BARE}
    runs[together] = partial(seconds_of, ", ".join(BARE), beside)
    runs |= {name: partial(seconds_of, "app", [folder, *beside]) for name, folder in functions.items()}
    taken = {name: median(seconds) for name, seconds in alternated(runs, rounds=rounds).items()}
    # What two of the packages need is counted once: the smaller of the two ways to sum them up.
    bare_s = taken[together]
    yield Table(
        title=f"A fresh interpreter imports (medians of {rounds} rounds)",
        columns=["what", "ms", "times the bare packages"],
        lines=[[name, import_s * 1000, import_s / bare_s] for name, import_s in taken.items()],
    )
    slowest = max((name for name in functions if name.endswith("_api")), key=lambda name: taken[name])
    sum_s = sum(taken[module] for module in BARE)
    yield Row(
        name="Cold start: import of the slowest API function, in its bare third-party imports",
        measured=taken[slowest] / bare_s,
        at_most=AT_MOST_THE_BARE,
        shown=f"{slowest}: {ms(taken[slowest])} against {ms(bare_s)}; "
        f"{taken[slowest] / sum_s:.3g} times the sum of the four, each in an interpreter of its own ({ms(sum_s)})",
    )


def seconds_of(modules: str, folders: list[Path]) -> float:
    """Seconds that a fresh interpreter takes for `import modules`, its own start not counted."""
    program = (
        f"import sys\nsys.path[:0] = {[str(folder) for folder in folders]}\n"
        f"import time\nbegan = time.perf_counter()\nimport {modules}\nprint(time.perf_counter() - began)"
    )
    environment = {**ENVIRONMENT, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "AWS_REGION": "us-east-1"}
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return float(result.stdout.split()[-1])


def megabytes(folder: Path) -> float:
    """All files below it."""
    return size_bytes(folder) / 1e6


def compiled(folder: Path) -> tuple[int, int]:
    """Modules, and how many of them have byte code beside them."""
    sources = list(folder.rglob("*.py"))
    return len(sources), sum(1 for path in sources if list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc")))
