"""What can be said of LocalStack's image without Docker: its files are sound, and it is said what is missing."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from local_market.commands import compose
from local_market.parts.places import PACKAGES

CHECKOUT = Path(__file__).parents[2]
HOOKS = sorted((CHECKOUT / "localstack" / "init" / "ready.d").iterdir())


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(compose.FILE.read_text())["services"])


def test_every_image_is_pinned_to_a_version(services: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in services.items()}
    assert images.keys() == {"postgres", "anvil", "localstack"}
    assert [image for image in images.values() if not re.search(r":v?\d+\.\d+[\w.-]*\}?$", image)] == []
    assert int(re.findall(r"^postgres:(\d+)", images["postgres"])[0]) >= 15


def test_the_parts_share_the_network_and_the_database_a_volume(services: dict[str, Any]) -> None:
    whole = yaml.safe_load(compose.FILE.read_text())
    assert all(service["networks"] == ["los-tecnicos-net"] for service in services.values())
    # Functions' containers are put into it by its name, so it must have that very one.
    assert whole["networks"]["los-tecnicos-net"]["name"] == "los-tecnicos-net"
    assert services["localstack"]["environment"]["LAMBDA_DOCKER_NETWORK"] == "los-tecnicos-net"
    assert "postgres_data:/var/lib/postgresql/data" in services["postgres"]["volumes"]
    assert whole["volumes"].keys() >= {"postgres_data"}


def test_nothing_is_open_to_other_machines_and_no_token_is_written_down(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert services["localstack"]["environment"]["LOCALSTACK_AUTH_TOKEN"].startswith("${LOCALSTACK_AUTH_TOKEN:?")


def test_the_hooks_are_where_localstack_looks_for_them(services: dict[str, Any]) -> None:
    assert "./init/ready.d:/etc/localstack/init/ready.d:ro" in services["localstack"]["volumes"]
    assert [hook.suffix for hook in HOOKS] == [".sh"] * 3
    assert all(hook.stat().st_mode & stat.S_IXUSR for hook in HOOKS)


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.name)
def test_a_hook_is_sound_bash(hook: Path) -> None:
    checked = subprocess.run(["bash", "-n", hook], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert hook.read_text().splitlines()[0] == "#!/bin/bash"


def test_the_hooks_give_the_template_what_it_has_no_default_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against an `awslocal` that writes down what it is called with."""
    monkeypatch.setattr(compose, "FOLDER", tmp_path)
    (tmp_path / "secrets").mkdir()
    compose.write_secrets({"database-url": "d", "migrations-database-url": "m", "operator-key": "o"})
    compose.write_parameters({"ChainId": "31337", "SettlementContract": "0x1", "TokenContract": "0x2"})
    awslocal = tmp_path / "awslocal"
    awslocal.write_text(
        '#!/bin/bash\necho "$*" >>"$CALLS"\n'
        "case $* in *describe-endpoint*) echo broker.example:4510;; *describe-stacks*) echo arn:of:the:loop;; esac\n"
    )
    awslocal.chmod(0o755)
    calls = tmp_path / "calls"
    for hook in HOOKS:
        subprocess.run(
            [hook],
            env={
                "PATH": f"{tmp_path}:{os.defpath}",
                "CALLS": str(calls),
                "STACK_SECRETS": str(tmp_path / "secrets"),
                "STACK_PARAMETERS": str(tmp_path / "parameters"),
                "STACK_TEMPLATE": "/built/template.yaml",
            },
            check=True,
        )
    said = calls.read_text()
    template = (CHECKOUT / "template.yaml").read_text().split("\nParameters:\n")[1].split("\nConditions:\n")[0]
    parameters = re.findall(r"^  (\w+):\n((?:    .*\n|\n)+)", template, re.MULTILINE)
    needed = {name for name, body in parameters if "Default:" not in body}
    given = set(re.findall(r"\b(\w+)=", next(line for line in said.splitlines() if " deploy " in line)))
    assert needed
    assert needed <= given <= {name for name, _ in parameters}
    assert "DeviceBroker=broker.example:4510" in said
    default_names = set(re.findall(r"Default: (energy-market/[\w-]+)", template))
    assert default_names == set(re.findall(r"create-secret --name (\S+)", said))
    assert "start-execution --state-machine-arn arn:of:the:loop" in said


def test_what_is_missing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = tmp_path / "docker"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LOCALSTACK_AUTH_TOKEN", "token")
    assert compose.missing() == ["Docker, and there is no `docker` on the PATH"]
    docker.write_text("#!/bin/sh\nexit 1\n")
    docker.chmod(0o755)
    assert compose.missing() == ["Docker, and its daemon does not answer"]
    docker.write_text('#!/bin/sh\n[ "$1" = info ]\n')
    assert compose.missing() == ["Docker Compose, and `docker compose` is not installed"]
    docker.write_text("#!/bin/sh\nexit 0\n")
    assert compose.missing() == []
    monkeypatch.delenv("LOCALSTACK_AUTH_TOKEN")
    assert compose.missing() == ["an account, and LOCALSTACK_AUTH_TOKEN is not set"]


def test_it_is_said_in_one_sentence() -> None:
    done = subprocess.run(
        [CHECKOUT / ".local" / "venv" / "bin" / "python", "-m", "local_market", "compose"],
        env={"PATH": os.devnull, "PYTHONPATH": os.pathsep.join(map(str, PACKAGES))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == (
        "LocalStack's image needs Docker, and there is no `docker` on the PATH, and an account, and"
        " LOCALSTACK_AUTH_TOKEN is not set: `make localstack-test` runs without either."
    )
