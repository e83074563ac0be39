"""Whatever the contract allows and whatever it does not, sent to the running stack (schemathesis, all its checks).

As a stranger, as a user with a device and an order, and as an operator. Afterwards the books must agree, and no
function may have met what it did not expect.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount

from energy_market_client.market_client import MarketClient
from local_market.emulators.local_aws import STACK, aws_session
from local_market.stack.market import RATE_LIMITS, LocalMarket, market
from local_market.stack.stack import remove_state
from local_market.watching.comparison import TOKEN_DECIMALS, Escrow, reconcile
from tests.security.findings import Finding
from tests.security.scanners import CHECKOUT, TOOLS, ToolError

FOLDER: Final = CHECKOUT / ".local" / "fuzz"
HOOKS: Final = CHECKOUT / "tests" / "security" / "formats.py"
CHECKS: Final = CHECKOUT / "tests" / "security" / "schemathesis.toml"
TIMEOUT_S: Final = 840  # an access token lives for 900
SAMPLES: Final = 20
OPERATORS_ONLY: Final = " /api/v1/admin/"
PUBLIC: Final = {"POST /api/v1/auth/signup", "POST /api/v1/auth/login"}  # who has no token is shut out by these, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Fuzzed:
    """How much was sent, and what was wrong with the answers, or with what it left."""

    cases: int
    findings: list[Finding]


def fuzz(*, examples: int, seed: int, workers: int) -> Fuzzed:
    """Start a stack of its own, send each operation up to so many examples a phase and an actor, stop it."""
    remove_state(FOLDER)
    try:
        operator: LocalAccount = Account.create()
        with market(FOLDER, parameters={**RATE_LIMITS, "OperatorWallets": operator.address}) as running:
            samples = FOLDER / "samples.json"
            samples.write_text(json.dumps(_samples()))
            reports = {
                who: _sent(running, who, token, samples=samples, examples=examples, seed=seed, workers=workers)
                for who, token in _actors(running, operator)
            }
            findings = [finding for who, report in reports.items() for finding in wrong(who, report)]
            findings += _left(running)
    finally:
        remove_state(FOLDER)
    return Fuzzed(cases=sum(report["test_cases"]["generated"] for report in reports.values()), findings=findings)


def _actors(running: LocalMarket, operator: LocalAccount) -> Iterator[tuple[str, str | None]]:
    """Who sends, each with a fresh access token just before. The operator comes last: he may pause the market."""
    yield "stranger", None
    user = MarketClient(running.api_url)
    user.sign_up()
    user.register_device(side="donor", device_type="raspi", location="the roof")
    user.place(side="sell", size_wh=1000, price_micro=200_000, all_or_none=True)
    yield "user", user.renew()
    user.close()
    chief = MarketClient(running.api_url, account=operator)
    chief.sign_up()
    yield "operator", chief.renew()
    chief.close()


def _samples() -> dict[str, list[str]]:
    """Values of the contract's own formats, which no pattern describes."""
    accounts = [Account.create() for _ in range(SAMPLES)]
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "device")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return {
        "eip55-address": [account.address for account in accounts],
        "eip191-signature": [
            "0x" + bytes(account.sign_message(encode_defunct(text="a text")).signature).hex() for account in accounts
        ],
        "csr": [request.public_bytes(serialization.Encoding.PEM).decode()],
    }


def _sent(
    running: LocalMarket, who: str, token: str | None, *, samples: Path, examples: int, seed: int, workers: int
) -> dict[str, Any]:
    """One run of schemathesis; its report."""
    report = FOLDER / f"{who}.json"
    done = subprocess.run(
        [
            *(str(TOOLS / "schemathesis"), "--config-file", str(CHECKS), "run"),
            *(f"{running.api_url}/api/v1/openapi.json", "--url", running.api_url),
            *("--checks", "all", "--max-examples", str(examples), "--seed", str(seed), "--workers", str(workers)),
            *("--continue-on-failure", "--no-color", "--report", "json", "--report-json-path", str(report)),
            *(() if token is None else ("--header", f"Authorization: Bearer {token}")),
        ],
        cwd=FOLDER,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS), "FUZZ_SAMPLES": str(samples)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    words = CHECKOUT / ".local" / "logs" / f"fuzz-{who}.txt"
    words.parent.mkdir(parents=True, exist_ok=True)
    words.write_text(done.stdout + done.stderr)
    if not report.exists():
        raise ToolError(f"schemathesis ended with {done.returncode}: see {words.relative_to(CHECKOUT)}")
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def wrong(who: str, report: dict[str, Any]) -> Iterator[Finding]:
    """What a report holds against us, a run that was none included."""
    for failure in report["failures"]:
        for operation in failure["operations"]:
            yield Finding(
                tool="schemathesis", rule=failure["type"], where=f"{who} {operation}", text=str(failure["title"])
            )
    for error in report["errors"]:
        yield Finding(tool="schemathesis", rule="error", where=who, text=json.dumps(error)[:500])
    operations = report["operations"]
    if not report["complete"] or operations["tested"] != operations["total"]:
        yield Finding(tool="schemathesis", rule="incomplete", where=who, text=json.dumps(operations))
    if who != "stranger":
        for operation in set(report["warnings"]["missing_auth"]) - PUBLIC:
            if who == "user" and OPERATORS_ONLY in operation:
                continue
            yield Finding(
                tool="schemathesis", rule="shut-out", where=f"{who} {operation}", text="nothing but 401 and 403"
            )


def _left(running: LocalMarket) -> Iterator[Finding]:
    """What the requests left behind that should not be there."""
    logs = aws_session().client("logs", endpoint_url=running.stack.aws.endpoint_url)
    groups = [group["logGroupName"] for group in logs.describe_log_groups()["logGroups"]]
    for group in (name for name in groups if STACK in name):
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group)
        for line in (entry["message"] for page in pages for entry in page["events"]):
            if '"level":"ERROR"' in line or '"level":"error"' in line or "Traceback" in line:
                yield Finding(tool="fuzz", rule="unexpected", where=group, text=line[:2000])
    logs.close()
    ledger = Escrow(
        rpc_url=running.stack.chain.rpc_url,
        contract=running.settlement_contract,
        token=running.token,
        token_decimals=TOKEN_DECIMALS,
    )
    with psycopg.connect(running.stack.database.url, autocommit=True) as conn:
        for difference in reconcile(conn, ledger=ledger, devices=[], at_rest=False):
            yield Finding(tool="fuzz", rule="books", where="reconcile", text=difference)
