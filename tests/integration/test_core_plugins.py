"""LocalStack's functions as processes: the execution environment by itself, and that LocalStack finds the plug-in."""

import contextlib
import json
import os
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from core_plugins import sandbox as sandbox_module
from core_plugins.sandbox import Answer, Event, InitError, Sandbox

from local_market.parts.places import CHECKOUT, LOCAL

PYTHON = LOCAL / "lambda" / "bin" / "python"
ARN = "arn:aws:lambda:us-east-1:000000000000:function:test"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="needs .local/lambda (`make test` makes it)")

Maker = Callable[..., Sandbox]


@pytest.fixture
def sandbox_of(tmp_path: Path) -> Iterator[Maker]:
    """Make the sandbox of a function from its source."""
    made: list[Sandbox] = []

    def make(source: str, *, layers: tuple[Path, ...] = (), timeout_s: float = 10, **environment: str) -> Sandbox:
        code = tmp_path / "code"
        code.mkdir(exist_ok=True)
        (code / "app.py").write_text(textwrap.dedent(source))
        made.append(
            Sandbox(
                python=PYTHON,
                handler="app.handle",
                code=code,
                layers=layers,
                environment={"AWS_LAMBDA_FUNCTION_NAME": "test", **environment},
                timeout_s=timeout_s,
            )
        )
        return made[-1]

    yield make
    for sandbox in made:
        sandbox.stop()


def _call(sandbox: Sandbox, event: object = None, request_id: str = "request-1") -> Answer:
    return sandbox.invoke(Event(request_id=request_id, function_arn=ARN, payload=json.dumps(event).encode()))


def _said(answer: Answer) -> Any:  # noqa: ANN401
    return json.loads(answer.payload)


def test_a_function_is_called_with_an_event_and_its_context(sandbox_of: Maker) -> None:
    sandbox = sandbox_of(
        """
        calls = 0
        def handle(event, context):
            global calls
            calls += 1
            print("saw", event["n"])
            left = context.get_remaining_time_in_millis()
            return [calls, event, context.aws_request_id, context.invoked_function_arn, 5000 < left <= 10000]
        """
    )
    sandbox.start()
    assert _said(_call(sandbox, {"n": "ö"})) == [1, {"n": "ö"}, "request-1", ARN, True]
    answer = _call(sandbox, {"n": 2}, "request-2")
    assert (_said(answer)[:3], answer.is_error) == ([2, {"n": 2}, "request-2"], False)
    start, said, end, report = answer.logs.splitlines()
    assert (start, said, end) == (
        "START RequestId: request-2 Version: $LATEST",
        "saw 2",
        "END RequestId: request-2",
    )
    assert report.startswith("REPORT RequestId: request-2\tDuration: ")


def test_what_a_function_raises_is_its_answer_and_in_its_log(sandbox_of: Maker) -> None:
    sandbox = sandbox_of("def handle(event, context): raise ValueError(event)")
    answer = _call(sandbox, "broken")
    assert answer.is_error
    assert (_said(answer)["errorType"], _said(answer)["errorMessage"]) == ("ValueError", "broken")
    assert "[ERROR] ValueError: broken" in answer.logs


def test_a_function_that_cannot_be_loaded_says_why(sandbox_of: Maker) -> None:
    sandbox = sandbox_of("import there_is_no_such_module")
    with pytest.raises(InitError) as failed:
        sandbox.start()
    assert json.loads(failed.value.payload)["errorType"] == "Runtime.ImportModuleError"
    assert "there_is_no_such_module" in sandbox.read_log()
    with pytest.raises(InitError):
        _call(sandbox)


def test_a_function_that_takes_too_long_is_ended_and_begins_anew(sandbox_of: Maker) -> None:
    sandbox = sandbox_of(
        """
        import subprocess, time
        def handle(event, context):
            if event:
                print("child", subprocess.Popen(["sleep", "60"]).pid)
                time.sleep(60)
            return "well"
        """,
        timeout_s=2.5,
    )
    sandbox.start()
    answer = _call(sandbox, "hang")
    assert answer.is_error
    assert _said(answer) == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": "RequestId: request-1 Error: Task timed out after 2.50 seconds",
    }
    assert "Task timed out after 2.50 seconds" in answer.logs
    _wait_for_the_end_of(int(answer.logs.split("child ")[1].split()[0]))
    assert _said(_call(sandbox)) == "well"


def _wait_for_the_end_of(pid: int) -> None:
    """It is killed already, but a busy machine may not have come to it."""
    until = time.monotonic() + 10
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_process_that_dies_fails_its_event_at_once_and_the_next_has_a_new_one(sandbox_of: Maker) -> None:
    sandbox = sandbox_of(
        """
        import os, signal
        def handle(event, context):
            if event == "exit":
                os._exit(3)
            if event == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            return os.getpid()
        """
    )
    first = _said(_call(sandbox))
    began = time.monotonic()
    assert _said(_call(sandbox, "exit"))["errorMessage"].endswith("Runtime exited with error: exit status 3")
    assert _said(_call(sandbox, "kill"))["errorMessage"].endswith("Runtime exited with error: signal: SIGKILL")
    assert time.monotonic() - began < 5
    assert _said(_call(sandbox)) != first


def test_a_layer_is_behind_the_functions_own_code_and_nothing_else_is_seen(
    sandbox_of: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_PERSON", "secret")
    layer = tmp_path / "layer"
    (layer / "python").mkdir(parents=True)
    (layer / "python" / "shared.py").write_text("WHERE = 'layer'")
    (layer / "python" / "app.py").write_text("raise SystemExit")
    sandbox = sandbox_of(
        """
        import os, shared, boto3
        def handle(event, context):
            try:
                import psycopg
            except ImportError:
                seen = "OF_THE_PERSON" in os.environ
                return [shared.WHERE, os.environ["GIVEN"], seen, os.environ["LAMBDA_TASK_ROOT"]]
        """,
        layers=(layer,),
        GIVEN="yes",
    )
    assert _said(_call(sandbox)) == ["layer", "yes", False, str(tmp_path / "code")]


def test_an_answer_may_not_be_larger_than_lambdas(sandbox_of: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "LARGEST_ANSWER", 1000)
    sandbox = sandbox_of("def handle(event, context): return 'x' * event")
    assert len(_said(_call(sandbox, 998))) == 998
    assert _said(_call(sandbox, 999))["errorType"] == "Function.ResponseSizeTooLarge"


def test_stopping_ends_the_process(sandbox_of: Maker) -> None:
    sandbox = sandbox_of("import os\ndef handle(event, context): return os.getpid()")
    pid = _said(_call(sandbox))
    sandbox.stop()
    assert not psutil.pid_exists(pid)


def _under_localstack(script: str, folder: Path) -> str:
    """What a script prints under the core's own interpreter, with our plug-ins."""
    localstack = LOCAL / "localstack" / "bin" / "python"
    if not localstack.exists():
        pytest.skip("needs LocalStack's core, which needs Python 3.13")
    done = subprocess.run(
        [localstack, "-P", "-c", textwrap.dedent(script)],
        cwd=folder,
        env={
            "PATH": os.defpath,
            "HOME": str(folder),
            "FILESYSTEM_ROOT": str(folder),
            "OVERRIDE_IN_DOCKER": "0",
            "PYTHONPATH": str(CHECKOUT / "localstack" / "core_plugins"),
            "LAMBDA_RUNTIME_EXECUTOR": "processes",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.may_be_skipped("LocalStack's core needs Python 3.13")
def test_localstack_finds_the_plug_ins(tmp_path: Path) -> None:
    found = _under_localstack(
        """
        from localstack.services.cloudformation.resource_provider import ResourceProviderExecutor
        from localstack.services.lambda_.invocation.runtime_executor import get_runtime_executor
        print(get_runtime_executor(), ResourceProviderExecutor.try_load_resource_provider("Custom::Anything"))
        """,
        tmp_path,
    )
    assert found.startswith("<class 'core_plugins.executor.ProcessExecutor'>")
    assert "core_plugins.custom_resource.CustomResource" in found


@pytest.mark.may_be_skipped("LocalStack's core needs Python 3.13")
def test_a_custom_resource_is_what_the_function_answers(tmp_path: Path) -> None:
    said = _under_localstack(
        """
        import json
        from types import SimpleNamespace
        from urllib.request import Request, urlopen
        from core_plugins.custom_resource import CustomResource

        def ask(kind, answer, before=None):
            def invoke(FunctionName, InvocationType, Payload):
                event = json.loads(Payload)
                asked.append([FunctionName, InvocationType, event["RequestType"], event.get("PhysicalResourceId")])
                if answer is not None:
                    urlopen(Request(event["ResponseURL"], json.dumps(answer).encode(), method="PUT"))
            request = SimpleNamespace(
                desired_state={"ServiceToken": "arn", "ServiceTimeout": "1"},
                previous_state=before,
                stack_id="stack",
                logical_resource_id="Schema",
                aws_client_factory=SimpleNamespace(lambda_=SimpleNamespace(invoke=invoke)),
            )
            event = getattr(CustomResource(), kind)(request)
            print(json.dumps([event.status.name, event.resource_model, event.message]))

        asked = []
        good = {"Status": "SUCCESS", "PhysicalResourceId": "p", "Data": {"Version": 7, "Name": "n"}}
        ask("create", good)
        ask("update", good, before={"Id": "p"})
        ask("create", {"Status": "FAILED", "Reason": "because", "PhysicalResourceId": "p"})
        ask("create", None)
        print(json.dumps(asked))
        """,
        tmp_path,
    )
    created, updated, failed, unanswered, asked = map(json.loads, said.splitlines())
    given = {"ServiceToken": "arn", "ServiceTimeout": "1"}
    assert created == updated == ["SUCCESS", {**given, "Version": "7", "Name": "n", "Id": "p"}, ""]
    assert failed == ["FAILED", given, "because"]
    assert unanswered == ["FAILED", given, "The function did not answer in time."]
    assert asked[:2] == [["arn", "Event", "Create", None], ["arn", "Event", "Update", "p"]]
