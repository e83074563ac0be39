"""Messages to devices (the specification, section 3)."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Final, Protocol

import msgspec

from energy_market.domain.commands import Command
from energy_market.domain.quantities import kwh

PUBLISHERS: Final = 16  # concurrent calls; with fewer connections the client would keep opening new ones
PUBLISH_S: Final = 5.0
"""Seconds in which publishing may begin: commands that a silent broker leaves are claimed again later."""


_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")


def payload(command: Command) -> bytes:
    """The JSON message of a command."""
    fields: dict[str, object] = {"transaction_id": command.transaction_id}
    match command.kind:
        case "lock":
            fields["order_id"] = command.sell_order_id
            fields["kwh_requested"] = kwh(command.energy_wh)
            fields["expires_at"] = command.expires_at
        case "transfer":
            fields["kwh"] = kwh(command.energy_wh)
    return _ENCODER.encode(fields)


class IotData(Protocol):
    """The only method of boto3's `iot-data` client that is used here."""

    def publish(self, *, topic: str, qos: int, payload: bytes) -> object:
        """Publish to a topic; raises botocore's errors."""


Publish = Callable[[Iterable[Command]], list[tuple[Command, Exception]]]


def publisher(client: IotData) -> Publish:
    """A function that publishes commands concurrently, at least once each. It returns those that failed, with errors.

    A failed command is not retried here: its row still waits, and the next tick claims it again.
    """
    pool = ThreadPoolExecutor(max_workers=PUBLISHERS)

    def publish(commands: Iterable[Command]) -> list[tuple[Command, Exception]]:
        until = monotonic() + PUBLISH_S

        def one(command: Command) -> None:
            if monotonic() >= until:
                raise TimeoutError("The broker is too slow.")
            client.publish(topic=command.topic, qos=1, payload=payload(command))

        sent = [(command, pool.submit(one, command)) for command in commands]
        return [(command, error) for command, task in sent if isinstance(error := task.exception(), Exception)]

    return publish
