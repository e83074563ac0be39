"""The local AWS, whichever emulator plays it: what the rest of the launcher knows of it.

An emulator is a module with a function that is a `StartAws`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import boto3

from local_market.parts.processes import Started, stop

AWS_ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
"""What an AWS client of the local stack needs beside AWS_ENDPOINT_URL; MiniStack takes `test` for the root user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAws:
    """The local AWS: its API at endpoint_url, its IoT broker at iot_host:iot_port with ca_file's authority.

    The API of IoT is at iot_endpoint_url: MiniStack's is its own. Functions read the authority at device_ca_url.
    beside: processes that belong to it. adapted: rewrites a built template as the emulator can read it, beside the
    original if need be.
    """

    endpoint_url: str
    iot_endpoint_url: str
    iot_host: str
    iot_port: int
    ca_file: Path
    device_ca_url: str
    process: Started
    beside: tuple[Started, ...] = ()
    adapted: Callable[[Path], Path] = field(default=lambda template: template)

    def stop(self) -> None:
        """Stop it with all Lambda workers; it writes its state first, if it keeps one."""
        for process in (self.process, *self.beside):
            stop(process)


class StartAws(Protocol):
    """Starts a local AWS with everything that it writes in the folder. Raises `ServiceError`.

    port, iot_port: given ones, else free ones. authorize: IAM and IoT policies are enforced. keep_state: what was
    deployed is there again at the next start. outlives_us: it runs until somebody stops it.
    """

    def __call__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        iot_port: int | None = None,
        authorize: bool = True,
        keep_state: bool = False,
        outlives_us: bool = False,
    ) -> LocalAws:
        """Start it; all of it or nothing."""


STACK = "energy-market"
"""The name of the stack that the template is deployed as."""


def read_outputs(endpoint_url: str) -> dict[str, str]:
    """Read the outputs of the deployed stack."""
    client = aws_session().client("cloudformation", endpoint_url=endpoint_url)
    stack = client.describe_stacks(StackName=STACK)["Stacks"][0]
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def aws_session() -> boto3.Session:
    """A session with the keys that the local AWS takes, whatever account the person has."""
    return boto3.Session(
        aws_access_key_id=AWS_ENVIRONMENT["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=AWS_ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
        region_name=AWS_ENVIRONMENT["AWS_DEFAULT_REGION"],
    )
