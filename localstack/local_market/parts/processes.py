"""Processes that the local stack starts, and how each of them is stopped, whatever became of who started it.

A started process leads a session of its own, so that Ctrl-C reaches only the launcher, and is recorded in the
checkout: a file with its process id *and* when that process began, since ids are given out again. What a launcher
that was killed left behind is recognised by these files, stopped and tidied; nobody else's process is touched.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from local_market.parts.places import LOCAL

RECORDS = LOCAL / "processes"

GRACE_S = 10.0
"""How long a process may take to end by itself, having been asked to."""


class ServiceError(Exception):
    """A part of the local stack cannot be had; a sentence that says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A process that this checkout started.

    began and owner_began are what `began_at` gave; an owner of 0 means that the process is to outlive its starter
    (`make up`). The folders are removed when the process is found without its owner.
    """

    name: str
    pid: int
    began: str
    owner: int
    owner_began: str
    stop_signal: int
    folders: list[str]

    def __post_init__(self) -> None:
        if self.pid <= 1:
            raise ValueError(f"not a process that can be ours: {self.pid}")

    @property
    def record(self) -> Path:
        """The file that remembers this process."""
        return RECORDS / f"{self.name}-{self.pid}.json"

    def is_running(self) -> bool:
        """Whether this very process still runs, not another one that was given its id."""
        return began_at(self.pid) == self.began

    @property
    def outlives_its_starter(self) -> bool:
        """Whether it is to run until somebody stops it, not until who started it ends."""
        return self.owner == 0

    def is_abandoned(self) -> bool:
        """Whether who started it, and was to stop it, is gone."""
        return not self.outlives_its_starter and began_at(self.owner) != self.owner_began


def began_at(pid: int) -> str | None:
    """Say when a process began, as a word that no other process with this id ever has; None if there is none.

    A zombie counts as none: it has ended, and only waits for its parent to notice.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if Path("/proc/self/stat").exists():
            # In clock ticks since boot. psutil's time of day moves when the machine's clock is set.
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            # The second field is the program's name in parentheses, and may itself hold blanks and parentheses.
            return f"{boot} {stat.rpartition(')')[2].split()[19]}"
        return f"{process.create_time():.2f}"
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


def start(
    name: str,
    arguments: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str],
    working_folder: Path | None = None,
    user: tuple[int, int] | None = None,
    stop_signal: int = signal.SIGTERM,
    folders: Sequence[Path] = (),
    outlives_us: bool = False,
) -> Started:
    """Start a program in a session of its own and record it.

    Its output goes to the end of the log. user is the (user, group) id to run as, for root only. folders are what to
    remove should the process be found without its owner.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    RECORDS.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=working_folder,
            env=dict(environment),
            start_new_session=True,
            user=None if user is None else user[0],
            group=None if user is None else user[1],
            extra_groups=None if user is None else [],
        )
    began = began_at(process.pid)
    if began is None:
        process.wait()
        raise ServiceError(f"{name} ended at once.{last_words(log)}")
    started = Started(
        name=name,
        pid=process.pid,
        began=began,
        owner=0 if outlives_us else os.getpid(),
        owner_began="" if outlives_us else (began_at(os.getpid()) or ""),
        stop_signal=stop_signal,
        folders=[] if outlives_us else [str(folder) for folder in folders],
    )
    unfinished = started.record.with_suffix(".new")
    unfinished.write_text(json.dumps(asdict(started)), encoding="utf-8")
    unfinished.replace(started.record)
    _children[process.pid] = process
    return started


_children: dict[int, subprocess.Popen[bytes]] = {}
"""Our own children, to be waited for; an orphan of an earlier launcher is not among them."""


def wait_until(ready: Callable[[], bool], *, process: Started, log: Path, timeout_s: float) -> None:
    """Wait for a started process to be ready; an error with its last words if it ends or takes too long."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if not process.is_running():
            stop(process)
            raise ServiceError(f"{process.name} ended while it started.{last_words(log)}")
        if time.monotonic() > deadline:
            stop(process)
            raise ServiceError(f"{process.name} was not ready after {timeout_s:.0f} s.{last_words(log)}")
        time.sleep(0.02)


def last_words(log: Path) -> str:
    """The end of a log, to be put behind a sentence."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-10:]
    except FileNotFoundError:
        lines = []
    return "".join(f"\n  {line}" for line in lines)


def stop(process: Started) -> None:
    """Stop a process with all that it started, and forget it: first asked, then, after a grace, made to."""
    family = _family(process)
    if process.is_running():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, process.stop_signal)
        _wait(lambda: not process.is_running(), timeout_s=GRACE_S)
        family |= _family(process)
    # What is left: the process itself if it would not go, and children that outlived it.
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            # psutil compares when the process began before it signals.
            member.kill()
    _wait(lambda: all(_has_ended(member) for member in family), timeout_s=GRACE_S)
    process.record.unlink(missing_ok=True)


def _wait(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while True:
        for child in list(_children.values()):
            # A child that ended stays a zombie until it is waited for.
            if child.poll() is not None:
                _children.pop(child.pid, None)  # another thread may wait for it as well
        if condition():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


def _has_ended(process: psutil.Process) -> bool:
    """Whether it ended; a zombie has, even where nobody waits for it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _family(process: Started) -> set[psutil.Process]:
    """The process, its descendants, and all in its session: a child whose parent died is found by the session."""
    found: set[psutil.Process] = set()
    if process.is_running():
        with contextlib.suppress(psutil.NoSuchProcess):
            leader = psutil.Process(process.pid)
            found |= {leader, *leader.children(recursive=True)}
    elif began_at(process.pid) is not None:
        # The id went to another process, so the session that had it is gone too: a session's id is not given out
        # as a process id while any member lives.
        return found
    for other in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getsid(other.pid) == process.pid:
                found.add(other)
    return found


def recorded() -> list[Started]:
    """All processes that this checkout has on record, whether or not they still run."""
    found = []
    for path in sorted(RECORDS.glob("*.json")):
        with contextlib.suppress(FileNotFoundError):
            found.append(Started(**json.loads(path.read_text(encoding="utf-8"))))
    return found


def stop_orphans() -> list[str]:
    """Stop what a killed launcher of this checkout left running, remove its folders; the names of what was stopped."""
    stopped = []
    for process in recorded():
        if process.is_abandoned():
            if process.is_running():
                stopped.append(process.name)
            stop(process)
            for folder in process.folders:
                shutil.rmtree(folder, ignore_errors=True)
    return stopped


@contextlib.contextmanager
def stopping(process: Started) -> Iterator[Started]:
    """Stop the process at the end of the block, however it ends."""
    try:
        yield process
    finally:
        stop(process)


def plain_environment() -> dict[str, str]:
    """What a part inherits: enough to run, nothing of the person's accounts, proxies or settings."""
    kept = ("PATH", "LANG", "LC_ALL", "TZ", "HOME", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ}


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock: of two processes in such blocks, one waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def stop_what_is_ours() -> None:
    """Stop every process that this one started and has not stopped: a launch that was broken off may have left some."""
    for process in recorded():
        if process.owner == os.getpid():
            stop(process)
