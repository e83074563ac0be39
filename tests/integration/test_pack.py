"""What is packed for Lambda: complete, lean, and compiled."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api import ENVIRONMENT

ROOT = Path(__file__).parents[2]
FUNCTIONS = sorted(path.parent.name for path in (ROOT / "functions").glob("*/app.py"))
# AWS's Python runtimes bring these.
OF_THE_RUNTIME = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3")


def pack(*arguments: str | Path) -> None:
    host = "aws" if (sys.platform, platform.machine()) == ("linux", "x86_64") else "host"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run(
        [sys.executable, ROOT / "infra" / "pack.py", *arguments],
        env={**os.environ, "LAMBDA_PYTHON": version, "LAMBDA_PLATFORM": host},
        check=True,
    )


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layer")
    pack("layer", folder)
    return folder / "python"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the runtime itself brings, and nothing else of the environment that the tests run in."""
    folder = tmp_path_factory.mktemp("runtime")
    for name in OF_THE_RUNTIME:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin)
        path = path.parent if path.name == "__init__.py" else path
        (folder / path.name).symlink_to(path)
    return folder


def size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_the_layer_is_lean(layer: Path) -> None:
    assert size_bytes(layer) <= 40_000_000
    assert {path.name for path in (layer / "chalice").glob("*.py")} == {"__init__.py", "app.py"}
    for unwanted in ("boto3", "eth_account", "pydantic", "web3", "pip"):
        assert not (layer / unwanted).exists()


def test_no_module_of_the_layer_is_compiled_again_at_a_cold_start(layer: Path) -> None:
    for source in [*(layer / "energy_market").rglob("*.py"), layer / "jwt" / "__init__.py"]:
        compiled = Path(importlib.util.cache_from_source(str(source)))
        # PEP 552: a hash that is not checked, since unpacking gives the source another time.
        assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00", source


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_finds_all_it_imports_in_its_package_the_layer_and_the_runtime(
    name: str, layer: Path, runtime: Path, tmp_path: Path
) -> None:
    package = tmp_path / "task"
    pack("function", name, package)
    program = (
        "import importlib, json, pkgutil, sys\n"
        f"sys.path[:0] = {json.dumps([str(package), str(layer), str(runtime)])}\n"
        "import app\n"
        # What handlers import when they are called.
        f"if {name == 'settlement'}:\n"
        "    import energy_market.evm.ledger, energy_market.usecases.settle_trades\n"
    )
    environment = {**ENVIRONMENT, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "AWS_REGION": "us-east-1"}
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    if name != "settlement":
        assert size_bytes(package) < 1_000_000


def test_the_function_for_lock_responses_needs_none_of_the_chains_packages(
    layer: Path, runtime: Path, tmp_path: Path
) -> None:
    package = tmp_path / "task"
    pack("function", "settlement", package, "without-packages")
    program = f"import sys; sys.path[:0] = {json.dumps([str(package), str(layer), str(runtime)])}; import app"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert size_bytes(package) < 1_000_000


def test_what_the_api_serves_of_itself_is_packed_with_it(tmp_path: Path) -> None:
    pack("function", "analytics_api", tmp_path)
    contract = json.loads((tmp_path / "openapi.json").read_text())
    assert "/api/v1/health" in contract["paths"]
    page = (tmp_path / "docs.html").read_text()
    for path in contract["paths"]:
        assert path in page
    assert "<script" not in page
    newest = max(path.name[:4] for path in (ROOT / "infra" / "migrations").glob("*.sql"))
    assert int((tmp_path / "schema_version").read_text()) == int(newest)


def test_a_migration_is_packed_with_the_function_that_applies_it(tmp_path: Path) -> None:
    pack("function", "migrations", tmp_path)
    packed = {path.name: path.read_bytes() for path in (tmp_path / "migrations").iterdir()}
    assert packed == {path.name: path.read_bytes() for path in (ROOT / "infra" / "migrations").glob("*.sql")}
