"""A client of the market's REST API, as a stranger would write it from the API's own description.

It holds one session, retries what may be retried, and knows nothing of the backend but its address. Not for sharing
between threads: each home has its own.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount

from energy_market_client.answers import RegisteredDevice, SettlementChain
from energy_market_client.errors import ApiError
from energy_market_client.keys import new_key
from energy_market_client.transport import UNAUTHORIZED, Transport

NOT_FOUND: Final = 404
CONFLICT: Final = 409


class MarketClient(Transport):
    """One wallet's session with the API at `api_url`."""

    def __init__(self, api_url: str, account: LocalAccount | None = None) -> None:
        """`account`: the wallet; a fresh one if none is given."""
        super().__init__(api_url)
        self.account: LocalAccount = account if account is not None else Account.create()
        self.user_id = ""

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

    def chain(self) -> SettlementChain:
        """The chain that the market settles on."""
        answer = self.get("/api/v1/chain")
        return SettlementChain(
            chain_id=answer["chain_id"],
            settlement_contract=answer["settlement_contract"],
            token_contract=answer["token_contract"],
            token_decimals=answer["token_decimals"],
        )

    def register_device(self, *, side: str, device_type: str, location: str) -> RegisteredDevice:
        """Register a device and get its certificate. Its key is made here, so a lost answer can be asked for again."""
        private_key, csr = new_key()
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
        private_key, csr = new_key()
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
