"""People who use the API through the reference client, and what must be true of what they did.

Each is a scenario of `crashes`: however often the line broke or a process died, its `check` must hold.
"""

import http.client
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any
from uuid import UUID

import boto3
from eth_account import Account

from energy_market.aws.dead_letters import DeadLetters
from energy_market.aws.registry import DeviceRegistry
from energy_market.database import Database
from energy_market.domain.settings import DeadLetterQueue
from energy_market.usecases.tidy_device import tidy_devices
from energy_market_client.answers import RegisteredDevice
from energy_market_client.keys import new_key
from energy_market_client.market_client import MarketClient
from tests.support.api import Answer, Client
from tests.support.market import Market
from tests.support.trouble.crashes import Crashed, Fuse, FusedClient, FusedDatabase, occupy

REGISTER = "/api/v1/iot/device/register"


class Api:
    """The functions behind the API. A process that dies is replaced by one that works, as Lambda does it."""

    def __init__(self, url: str, functions: Mapping[str, Client], tidying: ModuleType, iot: Any) -> None:  # noqa: ANN401 -- boto3's
        self.functions = functions
        self.tidying = tidying
        self.refused: list[Answer] = []  # with a status of 500 and more
        self._url = url
        self._iot = iot
        self._sandbox = Database(url)
        self._occupy(Database(url), Fuse())
        self.before_the_next_process: Callable[[], object] = lambda: None

    @contextmanager
    def process(self, fuse: Fuse, *, statements: bool = True) -> Iterator[None]:
        """Within the block requests are served by a process with this fuse, until it burns."""
        with self.on(FusedDatabase(self._url, fuse, statements=statements), fuse):
            yield

    @contextmanager
    def on(self, database: Database, fuse: Fuse | None = None) -> Iterator[None]:
        """Within the block the functions have this connection."""
        self._occupy(database, fuse or Fuse())
        try:
            yield
        finally:
            self._occupy(Database(self._url), Fuse())

    def serve(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, Any, bytes]:
        """What an HTTP connection would give; ConnectionResetError from a process that dies."""
        function = self.functions[path.split("/")[3]]
        try:
            answer = function.call(method, path, raw=None if body is None else body.decode(), headers=headers)
        except Crashed:
            self._occupy(Database(self._url), Fuse())
            self.before_the_next_process()
            raise ConnectionResetError from None
        if answer.status >= 500:
            self.refused.append(answer)
        message = http.client.HTTPMessage()
        for name, value in answer.headers.items():
            message[name] = value
        return answer.status, message, answer.text.encode()

    def things(self) -> set[str]:
        """The devices that AWS IoT knows, by their names."""
        return {
            thing["thingName"] for page in self._iot.get_paginator("list_things").paginate() for thing in page["things"]
        }

    def certificates(self) -> dict[str, str]:
        """The certificates that AWS IoT knows, with their status."""
        pages = self._iot.get_paginator("list_certificates").paginate()
        return {one["certificateId"]: one["status"] for page in pages for one in page["certificates"]}

    def certificates_of(self, device_id: str) -> set[str]:
        """Those that AWS IoT has for a device."""
        found = self._iot.list_thing_principals(thingName=device_id)["principals"] if device_id in self.things() else []
        return {arn.rpartition("/")[2] for arn in found}

    def close(self) -> None:
        self._sandbox.close()

    def _occupy(self, database: Database, fuse: Fuse) -> None:
        self._sandbox.close()
        self._sandbox = database
        for function in self.functions.values():
            occupy(function.module, database)
        registry = DeviceRegistry("energy-market-device")
        registry._client = FusedClient(self._iot, fuse)  # type: ignore[assignment] # noqa: SLF001 -- its sandbox is ours
        self.functions["iot"].module.registry = registry  # type: ignore[attr-defined]
        occupy(self.tidying, database)
        self.tidying._registry = lambda: registry  # type: ignore[attr-defined] # noqa: SLF001


class Neighbour(MarketClient):
    """The reference client, whose line leads to functions of this process."""

    def __init__(self, api: Api) -> None:
        super().__init__("http://api.example")
        self._api = api

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        return self._api.serve(method, path, body, headers)

    def patch(self, path: str, body: Mapping[str, object]) -> object:
        return self._call(
            "PATCH", path, json.dumps(body).encode(), {"Content-Type": "application/json"}, signed_in=True
        )

    @property
    def refresh_token(self) -> str:
        return self._refresh_token


class AtApi:
    """Somebody uses the API; the client asks again by itself when the line breaks."""

    def __init__(self, api: Api, market: Market) -> None:
        self.api, self.market, self.neighbour = api, market, Neighbour(api)

    def go(self) -> None:
        raise NotImplementedError

    def run_on(self) -> None:
        """The client has asked again already."""

    def check(self) -> None:
        raise NotImplementedError

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        """Of a query with one parameter: the user's id."""
        return self.market.sql(statement, UUID(self.neighbour.user_id))


# ------------------------------------------------------------------------------------------------ people


class SigningUp(AtApi):
    def go(self) -> None:
        self.neighbour.sign_up()

    def check(self) -> None:
        wallet = self.neighbour.account.address
        users = self.market.sql("SELECT id::text FROM users WHERE wallet_address = %s", wallet)
        assert users == [(self.neighbour.user_id,)]


class SignedUp(AtApi):
    def __init__(self, api: Api, market: Market) -> None:
        super().__init__(api, market)
        self.neighbour.sign_up()


class Refreshing(SignedUp):
    """A client that did not hear its new tokens has only the old ones to ask with."""

    def go(self) -> None:
        self.neighbour.renew()

    def check(self) -> None:
        assert self.neighbour.renew(), "the session that the client ended up with goes on"


class RefreshingLater(Refreshing):
    """Asks again only when the ten minutes are over in which the new tokens can be had once more."""

    def go(self) -> None:
        session = self.neighbour.refresh_token.partition(".")[0]
        self.api.before_the_next_process = lambda: self.market.sql(
            "UPDATE refresh_tokens SET rotated_at = rotated_at - interval '11 min' WHERE id = %s", UUID(session)
        )
        super().go()


class LoggingOut(SignedUp):
    def go(self) -> None:
        self.neighbour.post("/api/v1/auth/logout", {"refresh_token": self.neighbour.refresh_token}, signed_in=False)

    def check(self) -> None:
        assert self.rows("SELECT revoked_at IS NOT NULL FROM refresh_tokens WHERE user_id = %s") == [(True,)]


class MovingHouse(SignedUp):
    def go(self) -> None:
        assert self.neighbour.patch("/api/v1/auth/me", {"location": "the other street"})

    def check(self) -> None:
        assert self.rows("SELECT location FROM users WHERE id = %s") == [("the other street",)]


class BuildingANode(SignedUp):
    def go(self) -> None:
        self.neighbour.post("/api/v1/network/node/register", {"location": "the mast"}, key="a node")

    def check(self) -> None:
        assert self.rows("SELECT location FROM network_nodes WHERE operator_id = %s") == [("the mast",)]
        assert self.rows("SELECT roles FROM users WHERE id = %s") == [(["Recipient", "NetworkNodeOperator"],)]


class Governing(SignedUp):
    """An operator's acts: what is done is written down, and nothing that is not."""

    def __init__(self, api: Api, market: Market) -> None:
        super().__init__(api, market)
        admin: Any = api.functions["admin"].module
        admin.wallets = frozenset({self.neighbour.account.address})
        self.somebody = market.user()
        market.sql("UPDATE users SET wallet_address = %s WHERE id = %s", Account.create().address, self.somebody)
        self.device = market.device(self.somebody)
        self.sqs = boto3.client("sqs")
        self.queue = DeadLetterQueue(
            url=self.sqs.create_queue(QueueName=f"letters-{self.somebody}")["QueueUrl"],
            source_url=self.sqs.create_queue(QueueName=f"messages-{self.somebody}")["QueueUrl"],
        )
        self.sqs.send_message(QueueUrl=self.queue.url, MessageBody="failed five times")
        admin.letters = DeadLetters({"telemetry": self.queue})

    def go(self) -> None:
        self.neighbour.post("/api/v1/admin/market/pause", {"reason": "a rehearsal"})
        kyc = {"kyc_status": "Verified", "reason": "papers"}
        self.neighbour.post(f"/api/v1/admin/user/{self.somebody}/kyc", kyc)
        self.neighbour.post("/api/v1/admin/dead-letters/replay", {"queue": "telemetry", "reason": "again"})
        self.neighbour.post(f"/api/v1/admin/device/{self.device}/revoke", {"reason": "it lies"})
        self.neighbour.post("/api/v1/admin/market/resume", {"reason": "it is over"})

    def check(self) -> None:
        acts = self.rows("SELECT act, before, after FROM operator_acts WHERE operator_id = %s ORDER BY id")
        done = [act for act, _ in itertools.groupby(acts, key=lambda row: row[0])]
        assert done == ["market.pause", "user.kyc_status", "dead_letters.replay", "device.revoke", "market.resume"]
        # One that was done before the process died is asked for again, and changes nothing then.
        assert [(act, before, after) for act, before, after in acts if before != after] == [
            ("market.pause", "open", "paused"),
            ("user.kyc_status", "Unverified", "Verified"),
            ("market.resume", "paused", "open"),
        ]
        assert self.market.sql("SELECT paused FROM market_state") == [(False,)]
        assert self.market.sql("SELECT status FROM iot_devices WHERE id = %s", self.device) == [("Removed",)]
        assert self.market.sql("SELECT kyc_status FROM users WHERE id = %s", self.somebody) == [("Verified",)]
        assert sum(map(self._lying, (self.queue.url, self.queue.source_url))) == 1

    def _lying(self, queue: str) -> int:
        """How many messages a queue holds, those included that somebody has taken and not deleted."""
        counts = self.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
        return int(counts["ApproximateNumberOfMessages"]) + int(counts["ApproximateNumberOfMessagesNotVisible"])


# ------------------------------------------------------------------------------------------------ orders


class Ordering(SignedUp):
    """An order under an idempotency key: answered 201, it exists, once."""

    side = "buy"

    def go(self) -> None:
        self.order = self.neighbour.place(side=self.side, size_wh=400, price_micro=150_000, all_or_none=True)

    def check(self) -> None:
        placed = self.rows(
            """SELECT o.id::text, o.type, b.remaining_wh FROM energy_orders o
            JOIN open_orders b ON b.order_id = o.id WHERE o.user_id = %s"""
        )
        assert placed == [(self.order["id"], self.side, 400)]
        self.market.is_sound()


class Selling(Ordering):
    side = "sell"

    def __init__(self, api: Api, market: Market) -> None:
        super().__init__(api, market)
        market.device(UUID(self.neighbour.user_id))


class Cancelling(Ordering):
    def __init__(self, api: Api, market: Market) -> None:
        super().__init__(api, market)
        super().go()

    def go(self) -> None:
        self.neighbour.cancel(str(self.order["id"]))

    def check(self) -> None:
        assert self.rows("SELECT status FROM order_states WHERE user_id = %s") == [("Cancelled",)]
        assert self.rows("SELECT 1 FROM open_orders WHERE user_id = %s") == []
        self.market.is_sound()


# ------------------------------------------------------------------------------------------------ devices


class AtDevices(SignedUp):
    """Somebody to whose devices the sweep comes in the end."""

    def run_on(self) -> None:
        """No door is open that nobody knows of, or that is not about to be closed; then, later, the sweep comes."""
        known = self.market.sql(
            """SELECT c.id FROM device_certificates c JOIN iot_devices d ON d.id = c.device_id
            WHERE d.tidy_at IS NOT NULL OR c.valid_until IS NULL"""
        )
        active = {one for one, status in self.api.certificates().items() if status == "ACTIVE"}
        assert active <= {str(row[0]) for row in known}
        self.market.sql("UPDATE iot_devices SET tidy_at = tidy_at - interval '11 minutes'")
        self.market.sql(
            "UPDATE device_certificates SET issued_at = issued_at - interval '11 minutes' WHERE activated_at IS NULL"
        )
        tidy_devices(self.market.database, DeviceRegistry("energy-market-device"))


class Registering(AtDevices):
    """Somebody who has put an energy offer into the book registers the device that is to keep it."""

    def __init__(self, api: Api, market: Market) -> None:
        super().__init__(api, market)
        self.order = self.neighbour.place(side="sell", size_wh=400, price_micro=150_000, all_or_none=True)

    def go(self) -> None:
        self.device = self.neighbour.register_device(side="donor", device_type="esp32", location="the roof")

    def check(self) -> None:
        assert self.device.private_key.startswith("-----BEGIN")
        usable = self.rows("SELECT id::text FROM iot_devices WHERE owner_id = %s AND status = 'Registered'")
        assert usable == [(self.device.device_id,)]
        assert self.rows("SELECT device_id::text FROM open_orders WHERE user_id = %s")[0] in usable


class RegisteringAgain(Registering):
    """The first try died when AWS had made all of the device, and nobody had written it down."""

    def __init__(self, api: Api, market: Market) -> None:
        super().__init__(api, market)
        _, csr = new_key()
        self.body = {"device_type": "esp32", "location": "the roof", "csr": csr}
        headers = {
            "Authorization": f"Bearer {self.neighbour.renew()}",
            "Content-Type": "application/json",
            "Idempotency-Key": "the roof",
        }
        with api.process(Fuse(burns_at="aws attach_policy")), suppress(ConnectionResetError):
            api.serve("POST", REGISTER, json.dumps(self.body).encode(), headers)
            raise AssertionError("the first try is to die")

    def go(self) -> None:
        answer = self.neighbour.post(REGISTER, self.body, key="the roof")
        self.device = RegisteredDevice(
            device_id=answer["id"], certificate_pem=answer["certificate_pem"], private_key="-----BEGIN", answer=answer
        )

    def check(self) -> None:
        super().check()
        made = {str(row[0]) for row in self.rows("SELECT id::text FROM iot_devices WHERE owner_id = %s")}
        assert made & self.api.things() == {self.device.device_id}


class WithDevice(AtDevices):
    """Somebody has a device, with an offer in the book."""

    def __init__(self, api: Api, market: Market) -> None:
        super().__init__(api, market)
        self.device = self.neighbour.register_device(side="donor", device_type="esp32", location="the roof")
        self.first = str(self.device.answer["certificate_id"])
        self.order = self.neighbour.place(side="sell", size_wh=400, price_micro=150_000, all_or_none=True)

    def speaking(self) -> list[str]:
        """The certificates that speak for the device, oldest first."""
        return [
            str(row[0])
            for row in self.market.sql(
                """SELECT id FROM device_certificates
                WHERE device_id = %s AND (valid_until IS NULL OR valid_until > now()) ORDER BY issued_at""",
                UUID(self.device.device_id),
            )
        ]


class Rotating(WithDevice):
    def go(self) -> None:
        self.device = self.neighbour.rotate_certificate(self.device)

    def check(self) -> None:
        speaking = self.speaking()
        assert (speaking[0], speaking[-1]) == (self.first, self.device.answer["certificate_id"])
        assert self.api.certificates_of(self.device.device_id) == set(speaking)
        assert {self.api.certificates()[one] for one in speaking} == {"ACTIVE"}


class Revoking(WithDevice):
    def go(self) -> None:
        self.neighbour.revoke_certificates(self.device.device_id)

    def check(self) -> None:
        assert self.speaking() == []
        assert self.api.certificates_of(self.device.device_id) == set()
        assert self.first not in self.api.certificates()
        assert self.device.device_id in self.api.things()
        assert self.rows("SELECT status FROM order_states WHERE user_id = %s") == [("Created",)]


class Removing(WithDevice):
    def go(self) -> None:
        self.neighbour.remove_device(self.device.device_id)

    def check(self) -> None:
        assert self.rows("SELECT status FROM iot_devices WHERE owner_id = %s") == [("Removed",)]
        assert self.device.device_id not in self.api.things()
        assert self.first not in self.api.certificates()
        assert self.rows("SELECT status, reason FROM order_states WHERE user_id = %s") == [
            ("Cancelled", "device_removed")
        ]
        assert self.rows("SELECT 1 FROM open_orders WHERE user_id = %s") == []
        self.market.is_sound()


class Tidying(WithDevice):
    """The sweep itself dies on its way through a device that was removed."""

    def __init__(self, api: Api, market: Market) -> None:
        super().__init__(api, market)
        market.sql("UPDATE iot_devices SET status = 'Removed', tidy_at = now() WHERE id = %s", self.device.device_id)

    def go(self) -> None:
        self.api.tidying.sweep({}, None)

    def check(self) -> None:
        assert self.device.device_id not in self.api.things()
        assert self.first not in self.api.certificates()
        assert self.market.sql("SELECT tidy_at FROM iot_devices WHERE tidy_at <= now()") == []
