"""Imports point one way: functions -> api, use cases -> postgres, evm, messages, aws -> domain; the launcher too."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "layers" / "energy_market" / "energy_market"
LAUNCHER = ROOT / "localstack" / "local_market"
CLIENT = ROOT / "clients" / "python" / "energy_market_client"

# What each part of the package may import of the others.
MAY_IMPORT = {
    "domain": {"domain"},
    "postgres": {"postgres", "domain"},
    "evm": {"evm", "domain"},
    "messages": {"messages", "domain", "database", "logs"},
    "aws": {"aws", "domain"},
    "config": {"domain"},
    "database": set[str](),
    "logs": set[str](),
    "usecases": {"usecases", "postgres", "evm", "messages", "aws", "domain", "database", "logs"},
    "api": {"api", "postgres", "domain", "database"},
    "__init__": set[str](),
}
# The launcher's rooms, from the ground up: each imports only what lies below it, and itself.
FLOORS = ("parts", "faulty_node", "emulators", "stack", "community", "watching", "chaos", "commands")
OURS = {"energy_market", "energy_market_client", "energy_device", "local_market", "tests", "bench"}
# Third-party packages that are slow to import, or that the request path has no business with (see docs/decisions).
OFF_THE_REQUEST_PATH = {"boto3", "botocore", "eth_account", "eth_abi", "eth_utils", "web3", "pydantic", "cryptography"}


def _imports(source: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _part(source: Path) -> str:
    return source.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("source", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_package_imports_in_one_direction(source: Path) -> None:
    used = {name.split(".")[1] for name in _imports(source) if name.startswith("energy_market.")}
    assert used <= MAY_IMPORT[_part(source)]


def test_the_domain_needs_nothing_but_the_standard_library() -> None:
    for source in (PACKAGE / "domain").rglob("*.py"):
        if source.name in {"wallets.py", "tokens.py"}:
            continue  # signatures are checked by coincurve and pyjwt, not by us
        outside = {name.split(".")[0] for name in _imports(source)} - set(sys.stdlib_module_names) - {"energy_market"}
        assert not outside, f"{source.name} imports {outside}"


def test_nothing_slow_is_imported_by_the_shared_package_but_by_the_chain() -> None:
    for source in PACKAGE.rglob("*.py"):
        if _part(source) == "evm":
            continue
        top_level = {
            name.split(".")[0]
            for node in ast.parse(source.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        }
        assert not top_level & OFF_THE_REQUEST_PATH, source


@pytest.mark.parametrize("source", sorted(LAUNCHER.rglob("*.py")), ids=lambda path: str(path.relative_to(LAUNCHER)))
def test_the_launchers_rooms_import_only_from_the_floors_below(source: Path) -> None:
    room = source.relative_to(LAUNCHER).parts[0]
    if room in {"__init__.py", "__main__.py"}:
        return
    used = {name.split(".")[1] for name in _imports(source) if name.startswith("local_market.")}
    assert used <= set(FLOORS[: FLOORS.index(room) + 1])


def test_every_room_of_the_launcher_has_its_floor() -> None:
    assert {path.parent.name for path in LAUNCHER.glob("*/__init__.py")} == set(FLOORS)


def test_the_launcher_is_one_package_beside_the_set_up() -> None:
    assert {path.name for path in (ROOT / "localstack").glob("*.py")} == {"set_up.py"}
    assert (LAUNCHER / "__init__.py").exists()


def test_the_client_knows_the_market_by_its_interfaces_only() -> None:
    """But for `evm.rpc`: the wallet asks nodes as the backend does."""
    for source in CLIENT.rglob("*.py"):
        used = {name.rpartition(".")[0] for name in _imports(source) if name.split(".")[0] in OURS}
        assert used <= {"energy_market.evm.rpc"} | {f"{CLIENT.name}.{path.stem}" for path in CLIENT.glob("*.py")}


def test_what_tests_share_is_in_support() -> None:
    """No test module and no conftest is a library; the bench imports nothing else of the tests."""
    for source in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]:
        for name in _imports(source):
            if name.startswith("tests."):
                library = name.split(".")[:-1] if name.startswith("tests.support.") else name.split(".")
                assert not any(part == "conftest" or part.startswith("test_") for part in library), f"{source}: {name}"
                assert ROOT / "bench" not in source.parents or library[1] == "support", f"{source}: {name}"


def test_support_holds_no_test_and_imports_none_of_the_tests_beside_it() -> None:
    for source in (ROOT / "tests" / "support").rglob("*.py"):
        assert not source.name.startswith(("test_", "conftest")), source
        assert all(name.startswith("tests.support") for name in _imports(source) if name.startswith("tests")), source
