"""What LocalStack's Lambda service calls: its plug-in, and an executor for each execution environment.

Environment, as LocalStack was started: LAMBDA_PROCESSES_PYTHON is the interpreter that functions run under, one that
has `awslambdaric` and `boto3`; LAMBDA_PROCESSES_ENVIRONMENT a JSON object of variables that every function gets over
those that LocalStack gives it, as the address of a service that LocalStack's core lacks.
"""

import functools
import json
import logging
import os
import subprocess
from pathlib import Path

from localstack.services.lambda_.invocation.executor_endpoint import StatusErrorException
from localstack.services.lambda_.invocation.lambda_models import FunctionVersion, InvocationResult
from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin
from localstack.services.lambda_.invocation.runtime_executor import LambdaRuntimeException, RuntimeExecutor

from core_plugins.sandbox import Event, InitError, Sandbox
from localstack import config

LOG = logging.getLogger(__name__)


class ProcessExecutorPlugin(RuntimeExecutorPlugin):
    """What the entry point names."""

    name = "processes"

    def load(self, *_args: object, **_named: object) -> type[RuntimeExecutor]:
        """Give LocalStack the executor."""
        return ProcessExecutor


class ProcessExecutor(RuntimeExecutor):
    """One execution environment, a process."""

    def __init__(self, id: str, function_version: FunctionVersion) -> None:  # noqa: A002 - LocalStack's name
        super().__init__(id=id, function_version=function_version)
        self._sandbox: Sandbox | None = None

    def start(self, env_vars: dict[str, str]) -> None:
        """Start the process; return when it can be called."""
        version = self.function_version.config
        environment = {name: str(value) for name, value in env_vars.items()}
        self._sandbox = Sandbox(
            python=_python(),
            handler=version.handler,
            code=version.code.get_unzipped_code_location(),
            layers=[layer.code.get_unzipped_code_location() for layer in version.layers],
            environment={**environment, **json.loads(os.environ.get("LAMBDA_PROCESSES_ENVIRONMENT", "{}"))},
            timeout_s=version.timeout,
            memory_mb=version.memory_size,
        )
        try:
            self._sandbox.start()
        except InitError as error:
            raise self._not_loaded(error) from error

    def stop(self) -> None:
        """Stop the process."""
        if self._sandbox is not None:
            self._sandbox.stop()

    def invoke(self, payload: dict[str, str]) -> InvocationResult:
        """Let the function handle an event."""
        if self._sandbox is None:
            raise LambdaRuntimeException("called before it was started")
        event = Event(
            request_id=payload["invoke-id"],
            function_arn=payload["invoked-function-arn"],
            payload=payload["payload"].encode() or b"null",
            trace_id=payload["trace-id"],
        )
        try:
            answer = self._sandbox.invoke(event)
        except InitError as error:
            raise self._not_loaded(error) from error
        return InvocationResult(event.request_id, answer.payload, is_error=answer.is_error, logs=answer.logs)

    def get_address(self) -> str:
        """Say where the process is."""
        return "127.0.0.1"

    def get_endpoint_from_executor(self) -> str:
        """Say where the process finds LocalStack."""
        return "127.0.0.1"

    def get_runtime_endpoint(self) -> str:
        """Say where LocalStack listens for its own runtime's words; ours says none."""
        return f"http://127.0.0.1:{config.GATEWAY_LISTEN[0].port}"

    def get_logs(self) -> str:
        """Say what the process wrote and was not asked for yet."""
        return "" if self._sandbox is None else self._sandbox.read_log()

    @classmethod
    def prepare_version(cls, function_version: FunctionVersion) -> None:
        """Unpack code and layers. Raises for a runtime that this machine's interpreter is not."""
        version = function_version.config
        if version.runtime != _runtime():
            raise LambdaRuntimeException(f"it is for {version.runtime}, and functions run under {_runtime()} here")
        version.code.prepare_for_execution()
        for layer in version.layers:
            layer.code.prepare_for_execution()

    @classmethod
    def cleanup_version(cls, function_version: FunctionVersion) -> None:
        """Nothing: LocalStack removes the unpacked code itself."""

    def _not_loaded(self, error: InitError) -> StatusErrorException:
        LOG.warning("%s: %s\n%s", self.function_version.qualified_arn, error, self.get_logs())
        return StatusErrorException("The function could not be loaded", payload=error.payload)


def _python() -> Path:
    return Path(os.environ["LAMBDA_PROCESSES_PYTHON"])


@functools.cache
def _runtime() -> str:
    """The runtime's name for the interpreter that functions run under."""
    ask = "import sys; print('python%d.%d' % sys.version_info[:2])"
    return subprocess.run([_python(), "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
