"""Change the product, one bug at a time, and see that each is found.

    python -m tests.mutants

A mutant is made in a copy of the checkout, never in place. Those that break what is promised about energy, money, locks
or priority are given to the state machine, the others to the tests that they name; everything runs once on the product
as it is before. Each mutant is a line; the last line of standard output is one JSON object. Exit status 0 only if
every mutant was found, 2 if the tests fail on the product as it is.

Environment: JOBS, how many run at once (default 2); MUTANTS, names of some, separated by spaces (default: all);
LIVES and SEED, what the state machine looks at for each (default: 100 lives from seed 1).
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

import psutil

from tests.mutants.catalogue import CONTRACT, LIFE, MUTANTS, Mutant

CHECKOUT: Final = Path(__file__).resolve().parents[2]
ALL_COPIES: Final = CHECKOUT / ".local" / "mutants"
COPIES: Final = ALL_COPIES / str(os.getpid())
LEFT_OUT: Final = (
    ".git",
    ".local",
    ".aws-sam",
    "node_modules",
    "build",
    "docs",
    "*_cache",
    ".hypothesis",
    "__pycache__",
)
LINKED: Final = (".local", "node_modules")
STATE_MACHINE: Final = "tests/integration/test_whole_life.py"
TIMEOUT_S: Final = 1200
STOP_S: Final = 30


_running: Final[set[subprocess.Popen[str]]] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a mutant. `found_by` is the first test that failed; None if none did."""

    mutant: str
    found_by: str | None
    said: str
    seconds: float


def main() -> int:
    named = os.environ.get("MUTANTS", "").split()
    chosen = [mutant for mutant in MUTANTS if not named or mutant.name in named]
    if unknown := set(named) - {mutant.name for mutant in MUTANTS}:
        print(f"There is no mutant called {', '.join(sorted(unknown))}.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    _remove_abandoned_copies()
    verdicts: list[Verdict] = []
    with _copy_of(CHECKOUT, "as_it_is") as pristine, ThreadPoolExecutor(int(os.environ.get("JOBS") or 2)) as pool:
        try:
            _compile(pristine)
            if not _passes_as_it_is(pool, pristine, chosen):
                return 2
            for task in as_completed([pool.submit(_try, mutant, pristine) for mutant in chosen]):
                verdicts.append(task.result())
                _print(verdicts[-1])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in _running:
                process.terminate()
            raise
    found = {verdict.mutant for verdict in verdicts if verdict.found_by is not None}
    survived = [mutant.name for mutant in chosen if mutant.name not in found]
    print(json.dumps({"mutants": len(chosen), "caught": len(found), "survived": survived}))
    return 1 if survived else 0


def _passes_as_it_is(pool: ThreadPoolExecutor, pristine: Path, mutants: Sequence[Mutant]) -> bool:
    tests = sorted({test for mutant in mutants if mutant.found_by != LIFE for test in mutant.found_by})
    runs = [LIFE] * any(mutant.found_by == LIFE for mutant in mutants) + [tuple(tests)] * bool(tests)
    for verdict in pool.map(lambda tests: _run(pristine, tests, "the product as it is"), runs):
        if verdict.found_by is not None or verdict.said:
            _print(verdict)
            print("The tests do not pass on the product as it is.", file=sys.stderr)
            return False
        print(f"{verdict.mutant:<52} {verdict.seconds:6.1f} s  passes", flush=True)
    return True


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _remove_abandoned_copies() -> None:
    """Of those who were killed; and make room for our own."""
    COPIES.mkdir(parents=True, exist_ok=True)
    for folder in ALL_COPIES.glob("[0-9]*"):
        if not psutil.pid_exists(int(folder.name)):
            shutil.rmtree(folder, ignore_errors=True)


def _try(mutant: Mutant, pristine: Path) -> Verdict:
    with _copy_of(pristine, mutant.name) as copy:
        for edit in mutant.edits:
            file = copy / edit.file
            text = file.read_text(encoding="utf-8")
            assert text.count(edit.old) == 1, f"{mutant.name}: {edit.old!r} is not found once in {edit.file}"
            file.write_text(text.replace(edit.old, edit.new), encoding="utf-8")
        if any(edit.file == CONTRACT for edit in mutant.edits):
            subprocess.run(
                ["node", "infra/contracts/compile.mjs"],
                cwd=copy,
                check=True,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PATH": f"{CHECKOUT / '.local' / 'bin'}:{os.environ['PATH']}"},
            )
        return _run(copy, mutant.found_by, mutant.name)


@contextmanager
def _copy_of(checkout: Path, name: str) -> Iterator[Path]:
    """A copy of its own, gone afterwards."""
    folder = Path(mkdtemp(prefix=f"{name}-", dir=COPIES))
    ignored = LEFT_OUT if checkout == CHECKOUT else LINKED
    try:
        shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns(*ignored), dirs_exist_ok=True)
        for shared in LINKED:
            if (CHECKOUT / shared).exists():
                (folder / shared).symlink_to(CHECKOUT / shared)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compile(checkout: Path) -> None:
    """So that no copy compiles all again; by the sources' hashes, because a mutant may be as old and as long."""
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", *_sources(checkout)],
        check=True,
    )


def _sources(checkout: Path) -> list[str]:
    return [str(checkout / folder) for folder in ("layers", "functions", "localstack", "clients", "devices")]


def _run(checkout: Path, found_by: tuple[str, ...], name: str) -> Verdict:
    tests = [STATE_MACHINE] if found_by == LIFE else list(found_by)
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", "-rfE", "-p", "no:cacheprovider", *tests],
        cwd=checkout,
        env={
            **os.environ,
            "PYTHONHASHSEED": "0",
            "WHOLE_LIVES": os.environ.get("LIVES") or "100",
            "WHOLE_LIVES_SEED": os.environ.get("SEED") or "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        _running.add(process)
        try:
            said, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # it stops its servers
            said = process.communicate(timeout=STOP_S)[0] + f"\nERROR no end in {TIMEOUT_S} s"
        finally:
            _running.discard(process)
    seconds = time.monotonic() - began
    failed = re.search(r"^FAILED (\S+?::\S+)", said, re.MULTILINE)
    if failed is not None and process.returncode == 1:
        why = re.search(r"^E +(\S.*)", said, re.MULTILINE)
        return Verdict(mutant=name, found_by=failed[1], said=why[1] if why else "", seconds=seconds)
    if process.returncode == 0:
        return Verdict(mutant=name, found_by=None, said="", seconds=seconds)
    # What cannot even begin is not found by its tests.
    last = [line for line in said.splitlines() if line.startswith(("ERROR", "E  "))] or said.splitlines()[-1:]
    return Verdict(mutant=name, found_by=None, said=f"not run: {' '.join(last)[:200]}", seconds=seconds)


def _print(verdict: Verdict) -> None:
    by = "nobody" if verdict.found_by is None else verdict.found_by.rpartition("::")[2].partition("[")[0]
    if by == "test_whatever_happens_in_whatever_order_the_books_agree":
        by = LIFE[0]
    print(f"{verdict.mutant:<52} {verdict.seconds:6.1f} s  {by}: {verdict.said[:100]}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
