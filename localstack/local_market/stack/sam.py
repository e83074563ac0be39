"""template.yaml, built and deployed to the local AWS by the real SAM CLI, and the loop's first minute."""

import json
import os
import platform
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from local_market.emulators.local_aws import AWS_ENVIRONMENT, STACK, aws_session, read_outputs
from local_market.parts.places import CHECKOUT, LOCAL
from local_market.parts.processes import ServiceError
from local_market.stack.put_secrets import put_secrets

if TYPE_CHECKING:
    from types_boto3_cloudformation.type_defs import StackEventTypeDef
BUCKET = "energy-market-artifacts"
STAGE = "live"
API_READY_TIMEOUT_S = 60.0
POLL_S = 0.2
FIRST_EXECUTION_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What was deployed. `api_url` has no slash at its end; routes begin with /api/v1."""

    api_url: str
    state_machine_arn: str
    outputs: dict[str, str]


def build(folder: Path, *, sam: Path | None = None) -> Path:
    """Build the functions and the layer with `sam build` into `folder`; return the built template.

    They are built for the Python that runs this, which must be the one that runs the local AWS. Nothing is started,
    so this may run while the stack's parts start. Raises `ServiceError` with SAM's words when the build fails.
    """
    built = folder / "build"
    _sam(
        sam,
        ["build", "--config-env", "local", "--template-file", str(CHECKOUT / "template.yaml"),
         "--build-dir", str(built), "--parameter-overrides", f"PythonRuntime=python{_python_version()}"],
        folder=folder,
        failure="sam build failed",
    )  # fmt: skip
    return built / "template.yaml"


def deploy(
    built_template: Path,
    *,
    endpoint_url: str,
    database_url: str,
    migrations_database_url: str,
    operator_key: str,
    parameters: Mapping[str, str],
    sam: Path | None = None,
) -> Deployment:
    """Deploy a built template, or update what is deployed; return when the API answers and the loop runs.

    `parameters` are the template's, by its names. What it has no default for must be there: ChainId, RpcUrl,
    SettlementContract, TokenContract, DeviceBroker; Platform, PythonRuntime and the sign-in names are set here.
    Raises `ServiceError` with the reason of the resource that failed.
    """
    secret_names = put_secrets(
        endpoint_url,
        database_url=database_url,
        migrations_database_url=migrations_database_url,
        operator_key=operator_key,
    )
    s3 = aws_session().client("s3", endpoint_url=endpoint_url)
    if BUCKET not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=BUCKET)
    given = {
        "Platform": "local",
        "DeployedAt": str(time.time_ns()),
        "PythonRuntime": f"python{_python_version()}",
        "SignInDomain": "localhost",
        "SignInUri": "http://localhost",
        **secret_names,
        **parameters,
    }
    _remove_failed_stack(endpoint_url)
    started = time.time()
    folder = built_template.parent.parent
    config = _configuration(folder, given)
    try:
        _sam(
            sam,
            ["deploy", "--config-env", "local", "--config-file", str(config),
             "--template-file", str(built_template), "--no-progressbar"],
            folder=folder,
            failure="sam deploy failed",
            endpoint_url=endpoint_url,
        )  # fmt: skip
    except ServiceError as error:
        raise ServiceError(failure_report(endpoint_url, since=started) or str(error)) from error
    finally:
        config.unlink()
    outputs = read_outputs(endpoint_url)
    deployment = Deployment(
        api_url=f"{endpoint_url}/_aws/execute-api/{outputs['ApiId']}/{STAGE}",
        state_machine_arn=outputs["StateMachineArn"],
        outputs=outputs,
    )
    start_loop(endpoint_url, deployment.state_machine_arn)
    wait_for_api(deployment.api_url)
    return deployment


def _configuration(folder: Path, parameters: Mapping[str, str]) -> Path:
    """SAM's configuration with the parameters in it. On its command line they were everybody's on this machine to read.

    The address of the chain's node may hold a key.
    """
    written = (CHECKOUT / "samconfig.toml").read_text(encoding="utf-8")
    if written.rpartition("\n[")[2].partition("]")[0] != "local.deploy.parameters":
        raise ServiceError("In samconfig.toml the table local.deploy.parameters must be the last one.")
    overrides = json.dumps([f"{name}={value}" for name, value in parameters.items()])
    config = folder / "deploy.toml"
    with os.fdopen(os.open(config, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.write(f"{written.rstrip()}\nparameter_overrides = {overrides}\n")
    return config


def start_loop(endpoint_url: str, state_machine_arn: str) -> None:
    """Start a minute of the loop if none runs: the schedule fires for the first time a minute after the deploy."""
    client = aws_session().client("stepfunctions", endpoint_url=endpoint_url)
    try:
        running = client.list_executions(stateMachineArn=state_machine_arn, statusFilter="RUNNING")["executions"]
    except client.exceptions.StateMachineTypeNotSupported:
        running = []  # as on AWS, where nobody can ask for the executions of an express state machine
    # One that began longer ago was interrupted with the local AWS, and goes on only on paper.
    if not any(time.time() - execution["startDate"].timestamp() < FIRST_EXECUTION_S for execution in running):
        client.start_execution(stateMachineArn=state_machine_arn, input="{}")


def wait_for_api(api_url: str) -> None:
    """Wait until the API says that it is well. Raises `ServiceError` with what it said last."""
    deadline = time.monotonic() + API_READY_TIMEOUT_S
    said = "nothing"
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{api_url}/api/v1/health", timeout=10):  # noqa: S310 - our own address
                return
        except urllib.error.HTTPError as error:
            said = f"{error.code} {error.read(500).decode(errors='replace')}"
        except OSError as error:
            said = str(error)
        time.sleep(POLL_S)
    raise ServiceError(f"The API did not become healthy in {API_READY_TIMEOUT_S:.0f} s. It last said: {said}")


def _remove_failed_stack(endpoint_url: str) -> None:
    """Remove what a first deploy that failed leaves: a stack in a state that CloudFormation refuses to update."""
    client = aws_session().client("cloudformation", endpoint_url=endpoint_url)
    found = [stack for stack in client.describe_stacks()["Stacks"] if stack["StackName"] == STACK]
    if found and found[0]["StackStatus"] in {"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "REVIEW_IN_PROGRESS"}:
        client.delete_stack(StackName=STACK)
        client.get_waiter("stack_delete_complete").wait(StackName=STACK, WaiterConfig={"Delay": 1})


def failure_report(endpoint_url: str, *, since: float) -> str | None:
    """Say which resource failed first since a time (seconds since the epoch), and why; None if none did."""
    client = aws_session().client("cloudformation", endpoint_url=endpoint_url)
    try:
        pages = list(client.get_paginator("describe_stack_events").paginate(StackName=STACK))
    except client.exceptions.ClientError:
        return None  # the stack was never made
    events = [event for page in pages for event in page["StackEvents"] if event["Timestamp"].timestamp() >= since - 1]
    failed = sorted(filter(_is_cause, events), key=lambda event: event["Timestamp"])
    if not failed:
        return None
    lines = [f"  {event.get('LogicalResourceId', '?')} ({event.get('ResourceType', '?')}): "
             f"{event.get('ResourceStatusReason', 'no reason given')}" for event in failed[:3]]  # fmt: skip
    return "\n".join(["The deploy failed and was rolled back, because of", *lines])


def _is_cause(event: "StackEventTypeDef") -> bool:
    """Whether this is a failure of its own, not one that followed from another."""
    return (
        event.get("ResourceStatus", "").endswith("_FAILED")
        and "cancelled" not in event.get("ResourceStatusReason", "").lower()
        and event.get("ResourceType") != "AWS::CloudFormation::Stack"
    )


def _sam(
    sam: Path | None, arguments: list[str], *, folder: Path, failure: str, endpoint_url: str | None = None
) -> None:
    """Run the SAM CLI, without its telemetry, its look for newer versions and its questions."""
    program = sam or LOCAL / "sam" / "bin" / "sam"
    settings = folder / "sam"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "metadata.json").write_text(json.dumps({"telemetryEnabled": False, "lastVersionCheck": time.time()}))
    environment = {
        # MAKE...: what make was called with would reach, through SAM, the makes that build the functions.
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MAKE", "MFLAGS"))},
        **AWS_ENVIRONMENT,
        **({"AWS_ENDPOINT_URL": endpoint_url} if endpoint_url else {}),
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAM_CLI_TELEMETRY": "0",
        "SAM_CLI_POLL_DELAY": "0.5",
        "__SAM_CLI_APP_DIR": str(settings),
        "TMPDIR": str(settings),  # where it leaves its scratch folders
        "BUILD_PYTHON": sys.executable,
        "NO_PROXY": "localhost,127.0.0.1",
        "UV": str(LOCAL / "bin" / "uv") if (LOCAL / "bin" / "uv").exists() else "",
        "LAMBDA_PYTHON": _python_version(),
        "LAMBDA_PLATFORM": "aws" if (sys.platform, platform.machine()) == ("linux", "x86_64") else "host",
    }
    result = subprocess.run(
        [str(program), *arguments], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        words = (result.stdout + result.stderr).strip()
        # What SAM says before its error is a list of what it does.
        words = words[max(words.rfind("\nError:"), 0) :].strip()[-3000:]
        raise ServiceError(f"{failure}:\n{words}")


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
