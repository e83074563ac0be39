"""LocalStack's open-source core as the local AWS, without Docker and without an account; IoT beside it.

The core has no IoT, and runs functions in Docker alone. Functions run as processes by a plug-in (`core_plugins`),
IoT is MiniStack's: functions find its API by the AWS SDK's own variables, devices connect to its broker, and what its
rules put into its queues, `iot_bridge.py` carries into LocalStack's. The functions know of none of it.
"""

import json
import os
import re
import signal
from pathlib import Path
from urllib.error import URLError

from local_market.emulators.local_aws import AWS_ENVIRONMENT, LocalAws
from local_market.emulators.ministack import start_ministack
from local_market.parts.http_here import open_here
from local_market.parts.places import CHECKOUT, LOCAL, PACKAGES
from local_market.parts.ports import on_some_port
from local_market.parts.processes import ServiceError, Started, plain_environment, start, wait_until
from local_market.parts.processes import stop as stop_process

DEVICE_POLICY = "energy-market-device"
PYTHON = LOCAL / "localstack" / "bin" / "python"
NOT_INSTALLED = (
    "LocalStack's core is not installed: `make localstack-test` does it where there is a Python 3.13"
    " (LOCALSTACK_PYTHON may name one)."
)
READY_TIMEOUT_S = 90.0


def start_localstack(
    folder: Path,
    *,
    port: int | None = None,
    iot_port: int | None = None,
    authorize: bool = True,
    keep_state: bool = False,
    outlives_us: bool = False,
) -> LocalAws:
    """Start LocalStack's core, MiniStack for IoT and the bridge between them, with all that they write in the folder.

    A `StartAws`; but the core checks no permission, and keeps no state. Raises `ServiceError`.
    """
    if keep_state:
        raise ServiceError("LocalStack's core keeps no state from one start to the next.")
    if not PYTHON.exists():
        raise ServiceError(NOT_INSTALLED)
    iot = start_ministack(folder, iot_port=iot_port, authorize=authorize, outlives_us=outlives_us)
    try:
        return on_some_port(port, lambda chosen: _localstack_on(chosen, iot, folder=folder, outlives_us=outlives_us))
    except ServiceError:
        iot.stop()
        raise


def _localstack_on(port: int, iot: LocalAws, *, folder: Path, outlives_us: bool) -> LocalAws:
    home = folder / "localstack"
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)  # it holds the functions' code, and what they were called with
    endpoint_url = f"http://127.0.0.1:{port}"
    log = folder / "logs" / "localstack.log"
    process = start(
        "localstack",
        [PYTHON, "-P", "-m", "localstack.runtime.main"],
        log=log,
        environment={
            **plain_environment(),
            "XDG_CACHE_HOME": str(home / "cache"),
            "PYTHONPATH": str(CHECKOUT / "localstack" / "core_plugins"),
            "OVERRIDE_IN_DOCKER": "0",
            "FILESYSTEM_ROOT": str(home),
            "TMPDIR": str(home / "tmp"),
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "LOCALSTACK_HOST": f"127.0.0.1:{port}",
            "SQS_ENDPOINT_STRATEGY": "path",
            "DNS_ADDRESS": "0",
            "CFN_IGNORE_UNSUPPORTED_RESOURCE_TYPES": "1",  # IoT's
            # Nothing is fetched, and nobody is told.
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "DISABLE_EVENTS": "1",
            "LAMBDA_RUNTIME_EXECUTOR": "processes",
            "LAMBDA_PROCESSES_PYTHON": str(LOCAL / "lambda" / "bin" / "python"),
            "LAMBDA_PROCESSES_ENVIRONMENT": json.dumps(_variables_of_functions(iot)),
        },
        working_folder=home,
        stop_signal=signal.SIGKILL,  # it keeps nothing
        folders=[folder],
        outlives_us=outlives_us,
    )

    def is_ready() -> bool:
        try:
            with open_here(f"{endpoint_url}/_localstack/health") as answer:
                return bool(json.load(answer)["version"])
        except (OSError, URLError, ValueError):
            return False

    wait_until(is_ready, process=process, log=log, timeout_s=READY_TIMEOUT_S)
    try:
        bridge = _start_bridge(endpoint_url, iot, folder=folder, outlives_us=outlives_us)
    except ServiceError:
        stop_process(process)
        raise
    return LocalAws(
        endpoint_url=endpoint_url,
        iot_endpoint_url=iot.endpoint_url,
        iot_host=iot.iot_host,
        iot_port=iot.iot_port,
        ca_file=iot.ca_file,
        device_ca_url=iot.device_ca_url,
        process=process,
        beside=(bridge, iot.process),
        adapted=adapted,
    )


def adapted(template: Path) -> Path:
    """Write a built template as the core can read it, beside it. CloudFormation itself takes both that are changed.

    The core takes `${!iot:Connection.Thing.ThingName}`, which is left to IoT, for a resource's name; only the devices'
    policy has it, of which the core makes nothing anyway. And it looks for the version of a function, which SAM knows,
    before it has asked SAM; the custom resource that has it is called on every deploy for its other property.
    """
    text = template.read_text().replace("${!iot:Connection.Thing.ThingName}", "*")
    text = re.sub(r"(?:Ref: |!Ref )(\w+)\.Version\b", r"!GetAtt \1.Arn", text)
    written = template.with_name("template.localstack.yaml")
    written.write_text(text)
    return written


def _variables_of_functions(iot: LocalAws) -> dict[str, str]:
    """What functions get over what the template and LocalStack give them."""
    return {
        "AWS_ENDPOINT_URL_IOT": iot.endpoint_url,
        "AWS_ENDPOINT_URL_IOT_DATA_PLANE": iot.endpoint_url,
        # The core makes nothing of the template's policy but a placeholder; the bridge makes it where the broker is.
        "DEVICE_POLICY": DEVICE_POLICY,
        # MiniStack knows nothing of the roles that LocalStack gave its functions; LocalStack checks none.
        "AWS_ACCESS_KEY_ID": AWS_ENVIRONMENT["AWS_ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": AWS_ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
        "AWS_SESSION_TOKEN": "",
    }


def _start_bridge(endpoint_url: str, iot: LocalAws, *, folder: Path, outlives_us: bool) -> Started:
    log = folder / "logs" / "iot-bridge.log"
    process = start(
        "iot-bridge",
        [LOCAL / "venv" / "bin" / "python", "-P", "-m", f"{__package__}.iot_bridge", iot.endpoint_url, endpoint_url],
        log=log,
        environment={
            **plain_environment(),
            **AWS_ENVIRONMENT,
            "PYTHONPATH": os.pathsep.join(map(str, PACKAGES)),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        folders=[folder],
        outlives_us=outlives_us,
    )
    wait_until(lambda: "ready" in log.read_text(), process=process, log=log, timeout_s=READY_TIMEOUT_S)
    return process
