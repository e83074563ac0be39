"""The API as API Gateway calls it: proxy events in, proxy answers out, and a wallet to sign in with."""

import importlib.util
import json
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import ModuleType
from typing import Any
from uuid import UUID

import psycopg
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount

from energy_market.domain import sessions, tokens
from energy_market.postgres import refresh_tokens
from tests.support.contract import check_answer
from tests.support.places import CHECKOUT

FUNCTIONS = CHECKOUT / "functions"

FEES = {"MIN_PRIORITY_FEE_GWEI": "0", "MAX_FEE_GWEI": "1000"}
ENVIRONMENT = {
    "RATE_LIMIT_PER_MINUTE": "100000",
    "USER_LIMIT_PER_MINUTE": "100000",
    "SIGN_IN_LIMIT_PER_MINUTE": "100000",
    "ALLOWED_ORIGINS": "*",
    "JWT_KEYS": json.dumps({"k2": "a secret that is long enough, second", "k1": "a secret that is long enough, first"}),
    "SIGN_IN_DOMAIN": "energy.example",
    "SIGN_IN_URI": "https://energy.example",
    "CHAIN_ID": "31337",
    "RPC_URL": "http://127.0.0.1:1",
    "SETTLEMENT_CONTRACT": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
    "TOKEN_CONTRACT": "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512",
    "TOKEN_DECIMALS": "18",
    "CONFIRMATIONS": "2",
    "FINALITY_BLOCKS": "12",
    "LOCK_TIMEOUT_S": "30",
    "DEVICE_ONLINE_S": "120",
    "SETTLEMENT_WINDOW_S": "600",
    "KYC_REQUIRED": "none",
    "OPERATOR_WALLETS": "none",
    "LOCK_RESPONSES_QUEUE": "http://127.0.0.1:1/lock-responses",
    "LOCK_RESPONSES_DEAD_LETTERS": "http://127.0.0.1:1/lock-responses-dead-letters",
    "TELEMETRY_QUEUE": "http://127.0.0.1:1/telemetry",
    "TELEMETRY_DEAD_LETTERS": "http://127.0.0.1:1/telemetry-dead-letters",
    "DEVICE_POLICY": "energy-market-device",
    "DEVICE_BROKER": "localhost:8883",
    "DEVICE_CA_URL": "http://localhost/ca.pem",
}


def load_function(name: str) -> ModuleType:
    """A function's `app.py`, run anew: it reads the environment as it is now."""
    spec = importlib.util.spec_from_file_location(f"functions_{name}_{uuid.uuid4().hex}", FUNCTIONS / name / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # msgspec looks a Struct's annotations up in its module.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever the JSON holds
        return json.loads(self.text, parse_float=Decimal)

    @property
    def refusal(self) -> tuple[int, str]:
        """The status and the code of an error, whose shape is always the same."""
        body = self.json
        assert set(body) == {"error", "code"}
        assert body["error"].strip()
        return self.status, body["code"]


class Client:
    """Calls one function's app with API Gateway events (Lambda proxy integration, payload format 1.0).

    Every answer is held against the contract, whatever the test looks at.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        raw: str | None = None,
        base64: bool = False,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str | list[str]] | None = None,
        ip: str = "203.0.113.7",
    ) -> Answer:
        sent = {"Host": "api.example"}
        text = json.dumps(body) if raw is None and body is not None else raw
        if text is not None:
            sent["Content-Type"] = "application/json"
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        sent |= headers or {}
        event = proxy_event(
            method=method,
            path=path,
            resource_paths=self.module.app.routes,
            headers={name: value for name, value in sent.items() if value != ""},
            query={name: [v] if isinstance(v, str) else v for name, v in (query or {}).items()},
            body=text,
            base64=base64,
            ip=ip,
        )
        raw_answer = self.module.app(event, None)
        assert raw_answer["multiValueHeaders"] == {}
        answer = Answer(status=raw_answer["statusCode"], headers=raw_answer["headers"], text=raw_answer["body"])
        if method != "OPTIONS":
            check_answer(
                method=method,
                path=event["resource"],
                status=answer.status,
                headers=answer.headers,
                body=answer.json if answer.headers["Content-Type"] == "application/json" and answer.text else None,
            )
        return answer

    def get(self, path: str, **options: Any) -> Answer:  # noqa: ANN401 - those of `call`
        return self.call("GET", path, **options)

    def post(self, path: str, body: object = None, **options: Any) -> Answer:  # noqa: ANN401
        return self.call("POST", path, body=body, **options)


def proxy_event(
    *,
    method: str,
    path: str,
    resource_paths: Mapping[str, object],
    headers: Mapping[str, str],
    query: Mapping[str, list[str]],
    body: str | None,
    base64: bool,
    ip: str,
) -> dict[str, Any]:
    """What API Gateway sends to a function."""
    resource_path, path_parameters = _resource_of(path, resource_paths)
    request_id = str(uuid.uuid4())
    return {
        "version": "1.0",
        "resource": resource_path,
        "path": path,
        "httpMethod": method,
        "headers": dict(headers),
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": {name: values[-1] for name, values in query.items()} or None,
        "multiValueQueryStringParameters": dict(query) or None,
        "pathParameters": path_parameters or None,
        "stageVariables": None,
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "api0000000",
            "stage": "prod",
            "requestId": request_id,
            "extendedRequestId": request_id,
            "path": f"/prod{path}",
            "protocol": "HTTP/1.1",
            "identity": {"sourceIp": ip, "userAgent": "tests"},
            "resourcePath": resource_path,
            "httpMethod": method,
        },
        "body": body,
        "isBase64Encoded": base64,
    }


def _resource_of(path: str, resource_paths: Mapping[str, object]) -> tuple[str, dict[str, str]]:
    parts = path.split("/")
    for pattern in sorted(resource_paths, key=lambda p: "{" in p):
        names = pattern.split("/")
        if len(names) == len(parts) and all(n == p or n.startswith("{") for n, p in zip(names, parts, strict=True)):
            return pattern, {n[1:-1]: p for n, p in zip(names, parts, strict=True) if n.startswith("{")}
    return path, {}


def new_wallet() -> LocalAccount:
    account: LocalAccount = Account.create()
    return account


def sign(wallet: LocalAccount, message: str) -> str:
    """As a wallet's `personal_sign` does."""
    return "0x" + bytes(wallet.sign_message(encode_defunct(text=message)).signature).hex()


def challenged(auth: Client, wallet: LocalAccount) -> dict[str, str]:
    """The body of a sign-up or a login: a new challenge, signed."""
    opened = auth.post("/api/v1/auth/challenge", {"wallet_address": wallet.address})
    assert opened.status == 200
    return {"wallet_address": wallet.address, "signature": sign(wallet, opened.json["message"])}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """A registered user with a session."""

    wallet: LocalAccount
    user_id: str
    token: str
    refresh_token: str

    @property
    def session_id(self) -> UUID:
        return UUID(self.refresh_token.partition(".")[0])


def signed_in(auth: Client) -> SignedIn:
    """A new wallet that signed up and logged in."""
    wallet = new_wallet()
    user = auth.post("/api/v1/auth/signup", challenged(auth, wallet))
    assert user.status == 201
    session = auth.post("/api/v1/auth/login", challenged(auth, wallet))
    assert session.status == 200
    return SignedIn(
        wallet=wallet,
        user_id=user.json["id"],
        token=session.json["access_token"],
        refresh_token=session.json["refresh_token"],
    )


def token_of(conn: psycopg.Connection, user_id: UUID) -> str:
    """An access token of a new session of somebody who has not come through the API."""
    session_id = refresh_tokens.open_session(
        conn, user_id=user_id, token_hash=b"", life_s=sessions.LIFE_S, most=sessions.MAX_SESSIONS_OF_A_USER
    )
    return tokens.issue(
        user_id=user_id,
        session_id=session_id,
        token_id=tokens.new_id(),
        keys=json.loads(ENVIRONMENT["JWT_KEYS"]),
        now=datetime.now(UTC),
    )
