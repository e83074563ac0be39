"""MiniStack as the local AWS."""

import json
import signal
from pathlib import Path

from local_market.emulators.local_aws import AWS_ENVIRONMENT, LocalAws
from local_market.parts.http_here import open_here
from local_market.parts.places import LOCAL
from local_market.parts.ports import answers, free_port, on_some_port
from local_market.parts.processes import ServiceError, last_words, plain_environment, start, stop, wait_until


def start_ministack(
    folder: Path,
    *,
    port: int | None = None,
    iot_port: int | None = None,
    authorize: bool = True,
    keep_state: bool = False,
    outlives_us: bool = False,
) -> LocalAws:
    """Start MiniStack with everything that it writes in the folder (a `StartAws`)."""
    return on_some_port(
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
) -> LocalAws:
    home = folder / "ministack"
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)  # its state has the secrets, and what functions are given
    for name in ("state", "s3", "tmp"):
        (home / name).mkdir(parents=True, exist_ok=True)
    python = LOCAL / "ministack" / "bin" / "python"
    if not python.exists():
        raise ServiceError("MiniStack is not installed: run `make set-up`.")
    log = folder / "logs" / "ministack.log"
    process = start(
        "ministack",
        [python, "-P", Path(__file__).with_name("ministack_here.py")],
        log=log,
        environment={
            **plain_environment(),
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
        # Asked to end, it first waits for the state machines' minute. It is only worth it for the state it then writes.
        stop_signal=signal.SIGTERM if keep_state else signal.SIGKILL,
        folders=[folder],
        outlives_us=outlives_us,
    )
    endpoint_url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            with open_here(f"{endpoint_url}/_ministack/ready") as answer:
                ready = json.load(answer)
        except (OSError, ValueError):
            return False
        return bool(ready["iot_mtls"] != "starting")

    wait_until(is_ready, process=process, log=log, timeout_s=60)
    if not answers(iot_port):
        stop(process)
        raise ServiceError(f"MiniStack's IoT broker does not listen on port {iot_port} (IOT_PORT).{last_words(log)}")
    device_ca_url = f"{endpoint_url}/_ministack/iot/ca.pem"
    with open_here(device_ca_url) as answer:
        authority = answer.read()
    ca_file = folder / "iot-ca.pem"
    ca_file.write_bytes(authority)
    return LocalAws(
        endpoint_url=endpoint_url,
        iot_endpoint_url=endpoint_url,
        iot_host="localhost",
        iot_port=iot_port,
        ca_file=ca_file,
        device_ca_url=device_ca_url,
        process=process,
    )
