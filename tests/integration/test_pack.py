"""What is packed for Lambda: complete, lean, and compiled."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api import ENVIRONMENT, signed_in
from tests.support.lambda_ import NAMES, Sandbox, link_runtime, pack, size_bytes

ROOT = Path(__file__).parents[2]
SLOW_TO_IMPORT = {"boto3", "botocore", "cryptography", "eth_account", "pydantic", "web3"}


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layer")
    pack("layer", folder)
    return folder / "python"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the runtime itself brings, and nothing else of the environment that the tests run in."""
    folder = tmp_path_factory.mktemp("runtime")
    link_runtime(folder)
    return folder


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


@pytest.mark.parametrize("name", NAMES)
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
        "    import energy_market.evm.ledger, energy_market.usecases.settling.settle\n"
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


@pytest.fixture
def sandboxes(database_url: str, layer: Path, runtime: Path, tmp_path: Path) -> Iterator[dict[str, Sandbox]]:
    """The API's functions as they are packed."""
    sandboxes = {}
    for name in (name for name in NAMES if name.endswith("_api")):
        pack("function", name, tmp_path / name)
        environment = {**ENVIRONMENT, "DATABASE_URL": database_url, "AWS_REGION": "us-east-1"}
        sandboxes[name] = Sandbox([tmp_path / name, layer, runtime], environment)
    yield sandboxes
    for sandbox in sandboxes.values():
        sandbox.end()


def test_no_request_imports_what_is_slow_to_import(sandboxes: dict[str, Sandbox]) -> None:
    auth, market, iot, network, analytics, admin = (
        sandboxes[f"{name}_api"].client for name in ("auth", "market", "iot", "network", "analytics", "admin")
    )
    user = signed_in(auth)
    session = auth.post("/api/v1/auth/refresh", {"refresh_token": user.refresh_token})
    token = session.json["access_token"]
    order = market.post(
        "/api/v1/market/order/create",
        {"type": "buy", "kwh_amount": 1.5, "token_price": 0.25},
        token=token,
        headers={"Idempotency-Key": "once"},
    )
    assert admin.get("/api/v1/admin/market", token=token).status == 403  # it asked who that is
    answers = [
        session,
        order,
        auth.get("/api/v1/auth/me", token=token),
        auth.call("PATCH", "/api/v1/auth/me", body={"location": "the roof"}, token=token),
        *(
            market.get(f"/api/v1/market/{route}", token=token)
            for route in (f"order/{order.json['id']}", "orders", "orders/mine", "book", "price", "history", "trades")
        ),
        market.post("/api/v1/market/order/cancel", {"order_id": order.json["id"]}, token=token),
        iot.get("/api/v1/iot/devices", token=token),
        network.post("/api/v1/network/node/register", {"location": "the roof"}, token=token),
        network.get("/api/v1/network/nodes", token=token),
        analytics.get("/api/v1/analytics/dashboard", token=token),
        analytics.get("/api/v1/analytics/transactions", token=token),
        *(analytics.get(f"/api/v1/{route}") for route in ("openapi.json", "docs")),
        auth.post("/api/v1/auth/logout", {"refresh_token": session.json["refresh_token"]}, token=token),
    ]
    assert {answer.status for answer in answers} == {200, 201, 204}
    for route in ("chain", "health"):
        assert analytics.get(f"/api/v1/{route}").status == 503  # it asked: there is no chain
    imported = {name: sandbox.imported() for name, sandbox in sandboxes.items()}
    assert all("psycopg" in modules for modules in imported.values())
    assert {name: modules & SLOW_TO_IMPORT for name, modules in imported.items() if modules & SLOW_TO_IMPORT} == {}
