"""The local deploy's secrets, and what it says when it fails."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from local_market.parts.processes import ServiceError
from local_market.stack import sam
from local_market.stack.put_secrets import put_secrets
from local_market.stack.sam import build

MIGRATIONS = "postgresql://m"
AWS = "https://secretsmanager.us-east-1.amazonaws.com"


def secret(name: str) -> str:
    return boto3.client("secretsmanager", region_name="us-east-1").get_secret_value(SecretId=name)["SecretString"]


@mock_aws
def test_the_template_is_told_the_names_of_the_secrets() -> None:
    names = put_secrets(AWS, database_url="postgresql://a", migrations_database_url=MIGRATIONS, operator_key="0x1")
    assert secret(names["DatabaseSecret"]) == "postgresql://a"
    assert secret(names["MigrationsDatabaseSecret"]) == MIGRATIONS
    assert secret(names["OperatorKeySecret"]) == "0x1"
    (key,) = json.loads(secret(names["JwtKeysSecret"])).values()
    assert len(key) >= 32


@mock_aws
def test_another_value_has_another_name_so_that_functions_are_deployed_with_it() -> None:
    first = put_secrets(AWS, database_url="postgresql://a", migrations_database_url=MIGRATIONS, operator_key="0x1")
    second = put_secrets(AWS, database_url="postgresql://b", migrations_database_url=MIGRATIONS, operator_key="0x1")
    assert first["DatabaseSecret"] != second["DatabaseSecret"]
    assert first["OperatorKeySecret"] == second["OperatorKeySecret"]
    assert (
        put_secrets(AWS, database_url="postgresql://a", migrations_database_url=MIGRATIONS, operator_key="0x1") == first
    )


@mock_aws
def test_deploying_again_logs_nobody_out() -> None:
    first = secret(
        put_secrets(AWS, database_url="a", migrations_database_url=MIGRATIONS, operator_key="b")["JwtKeysSecret"]
    )
    assert (
        secret(
            put_secrets(AWS, database_url="c", migrations_database_url=MIGRATIONS, operator_key="d")["JwtKeysSecret"]
        )
        == first
    )


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


def test_a_build_that_fails_says_why_and_not_what_it_did_before(tmp_path: Path) -> None:
    sam = program(
        tmp_path / "a-sam", "print('Running this and that')\nprint('Error: no such wheel')\nraise SystemExit(1)\n"
    )
    with pytest.raises(ServiceError) as failure:
        build(tmp_path, sam=sam)
    assert str(failure.value) == "sam build failed:\nError: no such wheel"


def test_sam_calls_nobody_and_hears_nothing_of_the_persons_account_or_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("MAKEFLAGS", "-- PYTHON=python3.13")
    seen = tmp_path / "seen.json"
    build(
        tmp_path,
        sam=program(
            tmp_path / "a-sam",
            f"import json, os, sys\njson.dump([sys.argv, dict(os.environ)], open({str(seen)!r}, 'w'))\n",
        ),
    )
    arguments, environment = json.loads(seen.read_text())
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"PythonRuntime=python{version}" in arguments
    assert environment["LAMBDA_PYTHON"] == version
    assert environment["SAM_CLI_TELEMETRY"] == "0"
    assert not {"AWS_PROFILE", "MAKEFLAGS"} & environment.keys()
    settings = json.loads((Path(environment["__SAM_CLI_APP_DIR"]) / "metadata.json").read_text())
    assert settings["telemetryEnabled"] is False
    assert settings["lastVersionCheck"] > 1_700_000_000


def test_the_loop_is_started_where_nobody_may_ask_whether_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS refuses to list an express state machine's executions, as LocalStack does; MiniStack lists them."""
    arn = "arn:aws:states:us-east-1:000000000000:stateMachine:loop"
    client = boto3.client("stepfunctions", region_name="us-east-1")
    monkeypatch.setattr(sam, "aws_session", lambda: SimpleNamespace(client=lambda *_, **__: client))
    with Stubber(client) as aws:
        aws.add_client_error("list_executions", "StateMachineTypeNotSupported")
        started = {"executionArn": f"{arn}:1", "startDate": datetime.now(UTC)}
        aws.add_response("start_execution", started, {"stateMachineArn": arn, "input": "{}"})
        sam.start_loop("http://localhost", arn)
        aws.assert_no_pending_responses()
