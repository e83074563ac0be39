"""Set the checkout up: environments from the hashed locks, npm's packages; what is done already is skipped.

Runs before anything is installed, under the interpreter that everything is to run under: standard library only, and
the version is checked before anything that an old interpreter would not understand.

Usage: set_up.py [uv|bench|security|slither|localstack|lambda ...]
("uv": only the installer, for `make lock`; others: these, too)
"""

import sys

OLDEST, NEWEST = (3, 11), (3, 14)
if not OLDEST <= sys.version_info[:2] <= NEWEST:
    sys.exit(
        "This needs Python 3.11 to 3.14, and %s is %d.%d: name another one, as in `make PYTHON=python3.13`."  # noqa: UP031
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
LOCAL = CHECKOUT / ".local"
LOCKS = CHECKOUT / "localstack" / "locks"
STAMP = "set-up.stamp"
UV_OLDEST = (0, 7)  # the first that compiles dependency groups

ENVIRONMENTS = {
    "venv": CHECKOUT / "requirements.txt",
    "ministack": LOCKS / "ministack.txt",
    "sam": LOCKS / "sam.txt",
    "bench": LOCKS / "bench.txt",
    "security": LOCKS / "security.txt",
    "slither": LOCKS / "slither.txt",
    "localstack": LOCKS / "localstack.txt",
    "lambda": LOCKS / "lambda.txt",
}
"""Folder under .local -> the lock that it is made from."""

ALWAYS = ["venv", "ministack", "sam"]  # the others only when they are asked for

COMPILED = {*ALWAYS, "lambda"}
"""Of these many processes are started, each of which would compile it again where PYTHONDONTWRITEBYTECODE is set."""

LOCALSTACK_PYTHON = (3, 13)
NO_PYTHON_FOR_LOCALSTACK = (
    "What runs on LocalStack's core is left out: it needs Python 3.13, and there is none here"
    " (LOCALSTACK_PYTHON may name one)."
)

LAYOUT = "2"  # to be raised when what is made of the same locks changes

# Not the environment that happens to be active: its own would be made from itself.
INTERPRETER = os.path.realpath(getattr(sys, "_base_executable", sys.executable))

OUR_PACKAGES = [
    CHECKOUT / "layers" / "energy_market",
    CHECKOUT / "clients" / "python",
    CHECKOUT / "devices",
    CHECKOUT / "localstack",
]


class SetUpError(Exception):
    """What is missing, as a sentence for whoever typed `make`."""


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold the checkout's set-up lock: of two at once, the second waits, then finds everything done."""
    LOCAL.mkdir(exist_ok=True)
    with (LOCAL / "set-up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another set-up of this checkout to end.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(sentence: str) -> None:
    """Tell the person who waits; on standard error, since standard output belongs to what follows."""
    # One write, so that what two threads say does not mix.
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()


def run(arguments: list[str], *, doing: str) -> None:
    """Run a program quietly; its last words are shown only if it fails."""
    temporary = LOCAL / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "TMPDIR": str(temporary)}
    # An environment that the person has active is none of ours.
    environment.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        arguments, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()
        # npm begins with the cause and ends with its usage, pip ends with the cause.
        words = lines if len(lines) <= 30 else [*lines[:15], "...", *lines[-15:]]  # noqa: PLR2004
        message = "\n".join([f"{doing} failed: {' '.join(arguments[:3])} ended with {done.returncode}.", *words])
        raise SetUpError(message)


def stamp_of(*inputs: Path, interpreter: str = INTERPRETER) -> str:
    """Name a result by what it was made from: the interpreter and the place (scripts name it), the inputs' bytes."""
    base = hashlib.sha256()
    for part in (LAYOUT, sys.version, interpreter, platform.machine(), str(CHECKOUT)):
        base.update(part.encode() + b"\0")
    content = hashlib.sha256(b"\0".join(path.read_bytes() for path in inputs))
    return f"{base.hexdigest()}\n{content.hexdigest()}\n"


def is_done(folder: Path, stamp: str) -> bool:
    """Whether the folder was made, to the end, from what the stamp names."""
    try:
        return (folder / STAMP).read_text() == stamp
    except FileNotFoundError:
        return False


def is_same_base(folder: Path, stamp: str) -> bool:
    """Whether the folder was made for this interpreter and place, from whatever inputs."""
    try:
        return (folder / STAMP).read_text().split("\n")[0] == stamp.split("\n", maxsplit=1)[0]
    except FileNotFoundError:
        return False


def link(name: str, target: Path) -> None:
    """Put a program into .local/bin, which the Makefile has on the PATH."""
    place = LOCAL / "bin" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink() or place.readlink() != target:
        fresh = place.with_name(f".{name}.{os.getpid()}")
        fresh.symlink_to(target)
        fresh.replace(place)


def virtual_environment(folder: Path) -> None:
    """Make an empty environment with pip in it, by the standard library alone."""
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            message = (
                f"{sys.executable} cannot make virtual environments (it has no {module}): "
                f"on Debian and Ubuntu install python{version}-venv, or name another interpreter with PYTHON=."
            )
            raise SetUpError(message)
    shutil.rmtree(folder, ignore_errors=True)
    run([INTERPRETER, "-m", "venv", str(folder)], doing="Making a virtual environment")


def by_pip(folder: Path, lock: Path) -> None:
    """Make an environment from a lock with pip: what is needed before uv, and where uv cannot be."""
    stamp = stamp_of(lock)
    if is_done(folder, stamp):
        return
    virtual_environment(folder)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--no-deps", "--require-hashes", "-r", str(lock)], doing=f"Installing {lock.relative_to(CHECKOUT)}")
    (folder / STAMP).write_text(stamp)


def on_path(program: str) -> str | None:
    """Find the machine's own program, never the link in .local/bin that an earlier set-up made."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return shutil.which(program, path=os.pathsep.join(f for f in folders if f and LOCAL not in Path(f).parents))


def uv_on_path() -> Path | None:
    """Find the machine's own uv, if it is new enough."""
    found = on_path("uv")
    if found is None:
        return None
    answer = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.match(r"uv (\d+)\.(\d+)", answer)
    if version is None or (int(version[1]), int(version[2])) < UV_OLDEST:
        return None
    return Path(found)


def set_up_uv() -> Path:
    """Find or install uv, which fills the environments in seconds where pip takes minutes."""
    uv = uv_on_path()
    if uv is None:
        lock = LOCKS / "uv.txt"
        if not is_done(LOCAL / "uv", stamp_of(lock)):
            say("Installing uv ...")
        by_pip(LOCAL / "uv", lock)
        uv = LOCAL / "uv" / "bin" / "uv"
    link("uv", uv)
    return uv


def set_up_environment(uv: Path, name: str) -> None:
    """Make one environment, holding exactly what its lock lists."""
    folder, lock = LOCAL / name, ENVIRONMENTS[name]
    interpreter = INTERPRETER
    if name == "localstack":
        found = python_of_localstack(uv)
        if found is None:
            shutil.rmtree(folder, ignore_errors=True)
            say(NO_PYTHON_FOR_LOCALSTACK)
            return
        interpreter = found
    stamp = stamp_of(lock, interpreter=interpreter)
    if is_done(folder, stamp):
        show_our_packages(folder, name)
        return
    say(f"Making .local/{name} from {lock.relative_to(CHECKOUT)} ...")
    if name == "bench" or not is_same_base(folder, stamp):
        shutil.rmtree(folder, ignore_errors=True)
        run([str(uv), "venv", "--quiet", "--python", interpreter, str(folder)], doing=f"Making .local/{name}")
    (folder / STAMP).unlink(missing_ok=True)
    python = str(folder / "bin" / "python")
    if name == "bench":
        install_one_by_one([str(uv), "pip", "install", "--quiet", "--python", python, "--no-deps"], lock)
    else:
        sync = [str(uv), "pip", "sync", "--quiet", "--python", python, "--require-hashes"]
        if name in COMPILED:
            sync.append("--compile-bytecode")
        run([*sync, str(lock)], doing=f"Installing {lock.relative_to(CHECKOUT)}")
    show_our_packages(folder, name)
    (folder / STAMP).write_text(stamp)


def show_our_packages(folder: Path, name: str) -> None:
    """Let commands, tests and the bench import our own packages as they are in the checkout."""
    if name not in {"venv", "bench"}:
        return
    for packages in folder.glob("lib/python3*/site-packages"):
        seen = [str(package) for package in OUR_PACKAGES]
        if name == "bench":  # it holds what the bench compares with; all else is found in the environment beside it
            seen.append(str(LOCAL / "venv" / packages.relative_to(folder)))
        (packages / "energy_market.pth").write_text("\n".join(seen) + "\n")


def python_of_localstack(uv: Path) -> str | None:
    """Find an interpreter that LocalStack's core runs under: named by us, on the PATH, pyenv's or uv's own."""
    version = f"{LOCALSTACK_PYTHON[0]}.{LOCALSTACK_PYTHON[1]}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    ask_uv = [str(uv), "python", "find", "--no-python-downloads", "--no-project", version]
    for look in (
        lambda: [os.environ.get("LOCALSTACK_PYTHON"), INTERPRETER, on_path(f"python{version}")],
        lambda: sorted(map(str, pyenv.glob(f"*/bin/python{version}")), reverse=True),
        lambda: [subprocess.run(ask_uv, capture_output=True, text=True, check=False).stdout.strip()],
    ):
        for candidate in look():
            found = interpreter_behind(candidate) if candidate else None
            if found is not None and found[0] == LOCALSTACK_PYTHON:
                return found[1]
    return None


def interpreter_behind(program: str) -> tuple[tuple[int, ...], str] | None:
    """Ask a Python for its version and where it is itself, not an environment or a script; None if it does not run."""
    question = "import os, sys; print(*sys.version_info[:2], os.path.realpath(sys._base_executable))"
    try:
        asked = subprocess.run([program, "-c", question], capture_output=True, text=True, check=False)
    except OSError:
        return None
    if asked.returncode != 0:  # pyenv's script for a version that is not active, for one
        return None
    major, minor, path = asked.stdout.strip().split(" ", 2)
    return (int(major), int(minor)), path


def install_one_by_one(install: list[str], lock: Path) -> None:
    """Install a lock's packages apart: one that cannot be built on this machine is left out, and said."""
    one = LOCAL / "tmp" / "one.txt"
    one.parent.mkdir(exist_ok=True)
    for entry in re.findall(r"^\w(?:.*\\\n)*.*\n", lock.read_text(), re.MULTILINE):
        one.write_text(entry)
        package = entry.split()[0]
        try:
            run([*install, "--require-hashes", "-r", str(one)], doing=f"Installing {package}")
        except SetUpError as error:
            say(f"{error}\nGoing on without {package}.")


def npm() -> list[str]:
    """Find npm, or install Node from PyPI where the machine has none; as the beginning of a command."""
    found = on_path("npm")
    if found and on_path("node"):
        for name in ("node", "npm"):
            (LOCAL / "bin" / name).unlink(missing_ok=True)
        return [found]
    lock = LOCKS / "node.txt"
    if not is_done(LOCAL / "node", stamp_of(lock)):
        say("Installing Node, which this machine lacks ...")
    by_pip(LOCAL / "node", lock)
    for name in ("node", "npm"):
        link(name, LOCAL / "node" / "bin" / name)
    return [str(LOCAL / "node" / "bin" / "npm")]


def check_platform() -> None:
    """Say before anything is installed what this machine cannot run: the first to be missed would be Anvil."""
    system = platform.system()
    if system not in {"Linux", "Darwin"}:
        raise SetUpError(f"This runs on Linux and macOS, and this is {system or 'another system'}: on Windows use WSL.")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    packages = json.loads((CHECKOUT / "package.json").read_text())["optionalDependencies"]
    has_anvil = f"@foundry-rs/anvil-{system.lower()}-{machine}" in packages
    if not (has_anvil or os.environ.get("ANVIL_BIN") or on_path("anvil")):
        raise SetUpError(
            f"npm has no Anvil for {system} on {platform.machine()}: install Foundry's, and name it with ANVIL_BIN."
        )


def set_up_npm() -> None:
    """Install the chain's tools. No package's own install script runs: those would fetch from elsewhere.

    Anvil is the platform's binary package itself, optional: where npm has none, ANVIL_BIN names one.
    """
    modules = CHECKOUT / "node_modules"
    stamp = stamp_of(CHECKOUT / "package.json", CHECKOUT / "package-lock.json")
    command = npm()
    if is_done(modules, stamp):
        return
    say("Installing Anvil, the Solidity compiler and OpenZeppelin's contracts ...")
    run([*command, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], doing="npm ci")
    (modules / STAMP).write_text(stamp)


def set_up(environments: list[str]) -> None:
    """Do all that is not yet done; the environments side by side, since most of it is waiting for the network."""
    began = time.monotonic()
    uv = set_up_uv()
    with ThreadPoolExecutor() as pool:
        parts = [pool.submit(set_up_environment, uv, name) for name in environments]
        parts.append(pool.submit(set_up_npm))
        for part in parts:
            part.result()
    link("sam", LOCAL / "sam" / "bin" / "sam")
    shutil.rmtree(LOCAL / "tmp", ignore_errors=True)
    took_s = time.monotonic() - began
    if took_s > 1:
        say(f"Set up in {took_s:.0f} s.")


def main() -> None:
    """Set up what the command line asks for."""
    try:
        with one_at_a_time():
            if sys.argv[1:] == ["uv"]:
                set_up_uv()
            else:
                check_platform()
                set_up([*ALWAYS, *sys.argv[1:]])
    except SetUpError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted; the next set-up goes on from here.")


if __name__ == "__main__":
    main()
