"""A client of the market's REST API, as a stranger would write it from the API's own description.

It holds one session, retries what may be retried, and knows nothing of the backend but its address. Not for sharing
between threads: each home has its own.
"""

import contextlib
import datetime as dt
import http.client
import json
import random
import socket
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount

ATTEMPTS: Final = 7
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 8.0
LONGEST_WAIT_S: Final = 60.0
"""The longest that a server may tell us to wait before the pause that is ours: a minute's rate limit."""
TIMEOUT_S: Final = 30.0
OK_BELOW: Final = 300
TOO_MANY: Final = 429
UNAUTHORIZED: Final = 401
NOT_FOUND: Final = 404
CONFLICT: Final = 409
SERVER_ERROR: Final = 500


class ApiError(Exception):
    """The API refused: its status, its code word and its sentence."""

    def __init__(self, status: int, code: str, sentence: str) -> None:
        super().__init__(f"{status} {code}: {sentence}")
        self.status = status
        self.code = code


class UnreachableError(Exception):
    """The API could not be reached, or kept failing, through all attempts."""


class EndedError(Exception):
    """The client was told to end, perhaps by another thread while a request was under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Where the market settles, as `GET /api/v1/chain` tells."""

    chain_id: int
    settlement_contract: str
    token_contract: str
    token_decimals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredDevice:
    """What a device needs to connect. Its private key never left it."""

    device_id: str
    certificate_pem: str
    private_key: str
    answer: Mapping[str, Any]


def _new_key() -> tuple[str, str]:
    """A private key, and the request to certify it (PEM)."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    return (
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()).decode(),
        request.public_bytes(pem).decode(),
    )


def energy_wh(kwh: int | Decimal) -> int:
    """Watt-hours from the kWh of an answer, which has at most three decimals."""
    return int(Decimal(kwh) * 1000)


def nano_tokens(tokens: int | Decimal) -> int:
    """Nano-tokens from the tokens of an answer, which has at most nine decimals."""
    return int(Decimal(tokens) * 10**9)


def moment(text: str) -> dt.datetime:
    """A time from an answer (RFC 3339)."""
    return dt.datetime.fromisoformat(text)


class MarketClient:
    """One wallet's session with the API at `api_url`."""

    def __init__(self, api_url: str, account: LocalAccount | None = None) -> None:
        """`account`: the wallet; a fresh one if none is given."""
        parts = urlsplit(api_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an address of an API: {api_url}")
        self.account: LocalAccount = account if account is not None else Account.create()
        self.requests = 0
        self.retries = 0
        self.user_id = ""
        self._ended = threading.Event()
        self._api_url = api_url
        self._secure = parts.scheme == "https"
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._connection: http.client.HTTPConnection | None = None
        self._access_token = ""
        self._refresh_token = ""

    # Identity

    def sign_up(self) -> None:
        """Register the wallet and log in. A wallet that is registered already just logs in."""
        try:
            self.post("/api/v1/auth/signup", self._proof(), signed_in=False)
        except ApiError as error:
            # A first try whose answer was lost has registered the wallet, and used up the challenge that is sent again.
            if error.status not in (CONFLICT, UNAUTHORIZED):
                raise
        self.log_in()

    def log_in(self) -> None:
        """Begin a session."""
        try:
            answer = self.post("/api/v1/auth/login", self._proof(), signed_in=False)
        except ApiError as error:
            if error.status != UNAUTHORIZED:
                raise
            # Perhaps only the challenge was used up, by a first try whose answer was lost.
            answer = self.post("/api/v1/auth/login", self._proof(), signed_in=False)
        self._access_token, self._refresh_token = answer["access_token"], answer["refresh_token"]
        self.user_id = str(self.get("/api/v1/auth/me")["id"])

    def renew(self) -> str:
        """A fresh access token of this session, good for 15 minutes: for whoever wants to try the API by hand."""
        self._refresh()
        return self._access_token

    @property
    def tokens(self) -> tuple[str, str]:
        """The access token and the refresh token of the session; empty before there is one."""
        return self._access_token, self._refresh_token

    def another(self) -> "MarketClient":
        """One more client for this session, for another thread, as long as the session's access token is good."""
        client = MarketClient(self._api_url, self.account)
        client.user_id, client._access_token = self.user_id, self._access_token
        return client

    def _proof(self) -> dict[str, str]:
        """The wallet's signature (EIP-191) of a fresh challenge (EIP-4361)."""
        challenge = self.post("/api/v1/auth/challenge", {"wallet_address": self.account.address}, signed_in=False)
        signature = self.account.sign_message(encode_defunct(text=challenge["message"])).signature
        return {
            "wallet_address": self.account.address,
            "signature": "0x" + bytes(signature).hex(),
            "nonce": challenge["nonce"],
        }

    def _refresh(self) -> None:
        try:
            answer = self.post("/api/v1/auth/refresh", {"refresh_token": self._refresh_token}, signed_in=False)
        except ApiError as error:
            if error.status != UNAUTHORIZED:
                raise
            self.log_in()
            return
        self._access_token = answer["access_token"]
        self._refresh_token = answer.get("refresh_token", self._refresh_token)

    # The market

    def chain(self) -> Chain:
        """The chain that the market settles on."""
        answer = self.get("/api/v1/chain")
        return Chain(
            chain_id=answer["chain_id"],
            settlement_contract=answer["settlement_contract"],
            token_contract=answer["token_contract"],
            token_decimals=answer["token_decimals"],
        )

    def register_device(self, *, side: str, device_type: str, location: str) -> RegisteredDevice:
        """Register a device and get its certificate. Its key is made here, so a lost answer can be asked for again."""
        private_key, csr = _new_key()
        answer = self.post(
            "/api/v1/iot/device/register",
            {"device_type": device_type, "location": location, "side": side, "csr": csr},
            key=str(uuid.uuid4()),
        )
        return RegisteredDevice(
            device_id=answer["id"],
            certificate_pem=answer["certificate_pem"],
            private_key=private_key,
            answer=answer,
        )

    def rotate_certificate(self, device: RegisteredDevice) -> RegisteredDevice:
        """Another certificate, of another key, for one's own device."""
        private_key, csr = _new_key()
        answer = self.post(f"/api/v1/iot/device/{device.device_id}/certificate", {"csr": csr})
        return RegisteredDevice(
            device_id=device.device_id,
            certificate_pem=answer["certificate_pem"],
            private_key=private_key,
            answer={**device.answer, **answer},
        )

    def revoke_certificates(self, device_id: str) -> None:
        """End all certificates of one's own device."""
        self.delete(f"/api/v1/iot/device/{device_id}/certificate")

    def remove_device(self, device_id: str) -> None:
        """Remove one's own device. If it is gone already, a first try whose answer was lost has done it."""
        try:
            self.delete(f"/api/v1/iot/device/{device_id}")
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise

    def place(
        self,
        *,
        side: str,
        size_wh: int,
        price_micro: int,
        all_or_none: bool,
        device_id: str | None = None,
        key: str | None = None,
    ) -> Mapping[str, Any]:
        """Place an order; sent twice, it is still one. With a `key` that also holds from one call to the next."""
        # With at most 9 significant digits the shortest text of the float is the very number that is meant.
        body: dict[str, object] = {"type": side, "kwh_amount": size_wh / 1000, "token_price": price_micro / 1_000_000}
        if not all_or_none:
            body["all_or_none"] = False
        if device_id is not None:
            body["device_id"] = device_id
        answer: Mapping[str, Any] = self.post("/api/v1/market/order/create", body, key=key or str(uuid.uuid4()))
        return answer

    def cancel(self, order_id: str) -> bool:
        """Cancel what is open of an order; False if nothing was (it was matched meanwhile)."""
        try:
            self.post("/api/v1/market/order/cancel", {"order_id": order_id})
        except ApiError as error:
            if error.status == CONFLICT:
                return False
            raise
        return True

    def my_orders(self, *, limit: int = 100) -> Sequence[Mapping[str, Any]]:
        """One's own orders, the latest first."""
        answer: Sequence[Mapping[str, Any]] = self.get("/api/v1/market/orders/mine", limit=limit)
        return answer

    def my_trades(self, *, limit: int = 100) -> Sequence[Mapping[str, Any]]:
        """One's own trades, the latest first."""
        answer: Sequence[Mapping[str, Any]] = self.get("/api/v1/analytics/transactions", limit=limit)
        return answer

    # HTTP

    def get(self, path: str, **query: object) -> Any:  # noqa: ANN401 - JSON is anything
        """`GET`, with retries."""
        return self._call("GET", path + (f"?{urlencode(query)}" if query else ""), None, {}, signed_in=True)

    def post(self, path: str, body: Mapping[str, object], *, key: str | None = None, signed_in: bool = True) -> Any:  # noqa: ANN401
        """`POST` a JSON body, with retries; `key` makes a repetition harmless."""
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        return self._call("POST", path, json.dumps(body).encode(), headers, signed_in=signed_in)

    def delete(self, path: str) -> None:
        """`DELETE`, with retries: what is asked for must be the same when it was done already."""
        self._call("DELETE", path, None, {}, signed_in=True)

    @property
    def ended(self) -> bool:
        """Whether the client was told to end."""
        return self._ended.is_set()

    def end(self) -> None:
        """From any thread: no request is sent any more, none is tried again, and one under way is broken off."""
        self._ended.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End, and let go of the connection; nobody else may be using the client any more."""
        self.end()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _call(self, method: str, path: str, body: bytes | None, headers: dict[str, str], *, signed_in: bool) -> Any:  # noqa: ANN401
        pause_s = FIRST_PAUSE_S
        trouble = ""
        refreshed = False
        for _ in range(ATTEMPTS):
            if self._ended.is_set():
                raise EndedError
            if signed_in and self._access_token:
                headers["Authorization"] = f"Bearer {self._access_token}"
            told_to_wait_s = 0.0
            try:
                status, answer_headers, text = self._send(method, path, body, headers)
            except (OSError, http.client.HTTPException) as error:
                self._hang_up()
                trouble = f"{type(error).__name__}: {error}"
            else:
                if status < OK_BELOW:
                    return json.loads(text, parse_float=Decimal) if text else None
                refusal = _refusal(status, text)
                if status == UNAUTHORIZED and signed_in and self._refresh_token and not refreshed:
                    refreshed = True
                    self._refresh()
                    continue
                if status != TOO_MANY and status < SERVER_ERROR:
                    raise refusal
                trouble = str(refusal)
                retry_after = answer_headers.get("Retry-After", "")
                told_to_wait_s = min(float(retry_after), LONGEST_WAIT_S) if retry_after.isdigit() else 0.0
            self.retries += 1
            # Full jitter, so that clients that failed together do not come again together.
            self._ended.wait(told_to_wait_s + random.uniform(0, pause_s))  # noqa: S311 - not cryptography
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
        raise UnreachableError(f"{method} {path}: {trouble} (after {ATTEMPTS} attempts)")

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            self._connection = kind(self._host, self._port, timeout=TIMEOUT_S)
        self.requests += 1
        self._connection.request(method, self._prefix + path, body=body, headers=dict(headers))
        response = self._connection.getresponse()
        return response.status, response.headers, response.read()


def _refusal(status: int, text: bytes) -> ApiError:
    """The error that an answer describes; a gateway's own answers have other bodies than the API's."""
    try:
        body = json.loads(text)
        return ApiError(status, str(body["code"]), str(body["error"]))
    except (ValueError, KeyError, TypeError):
        return ApiError(status, "unreadable", text[:200].decode(errors="replace"))
