"""Faults of the messages that devices send: lost, doubled, late, forged."""

import base64
import contextlib
import json
import random
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from local_market.chaos.hindrances import NotNow, insist
from local_market.chaos.world import ChaosWorld
from local_market.emulators.local_aws import STACK

INTERCEPTION_S: Final = 3.0
LONGEST_INTERCEPTION_S: Final = 12.0  # answers come only when something was matched


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue of devices' messages, and the function that reads it."""

    output: str
    function: str


ANSWERS: Final = Queue(output="LockResponsesQueueUrl", function=f"{STACK}-lock-responses")
REPORTS: Final = Queue(output="TelemetryQueueUrl", function=f"{STACK}-telemetry")


def _intercept(world: ChaosWorld, queue: Queue) -> list[str]:
    """Take what comes into a queue for some seconds, before its function can; the messages. Raises NotNow for none."""
    url = world.market.deployment.outputs[queue.output]
    taken: list[str] = []
    with world.turn(queue.function):
        (mapping,) = world.functions.list_event_source_mappings(FunctionName=queue.function)["EventSourceMappings"]
        world.functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
        try:
            began = time.monotonic()
            while time.monotonic() < began + (INTERCEPTION_S if taken else LONGEST_INTERCEPTION_S):
                batch = world.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
                for message in batch.get("Messages", []):
                    world.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                    taken.append(message["Body"])
        finally:
            insist(lambda: world.functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=True))
    if not taken:
        raise NotNow("no message came in")
    return taken


def _put(world: ChaosWorld, queue: Queue, bodies: Iterable[str]) -> None:
    url = world.market.deployment.outputs[queue.output]
    for body in bodies:
        world.sqs.send_message(QueueUrl=url, MessageBody=body)


def _any_queue(chance: random.Random) -> Queue:
    return chance.choice((ANSWERS, REPORTS))


@contextlib.contextmanager
def messages_lost(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
    """What devices say for some seconds arrives nowhere, though the broker has acknowledged it."""
    _intercept(world, _any_queue(chance))
    yield


@contextlib.contextmanager
def messages_duplicated(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
    """Each message of some seconds arrives three times."""
    queue = _any_queue(chance)
    _put(world, queue, 3 * _intercept(world, queue))
    yield


@contextlib.contextmanager
def messages_reordered(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
    """The messages of some seconds arrive in another order, some of them twice."""
    queue = _any_queue(chance)
    bodies = _intercept(world, queue)
    bodies += chance.choices(bodies, k=len(bodies) // 2)
    chance.shuffle(bodies)
    _put(world, queue, bodies)
    yield


@contextlib.contextmanager
def messages_delayed(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
    """The messages of some seconds arrive much later: answers perhaps after their deadline."""
    queue = _any_queue(chance)
    bodies = _intercept(world, queue)
    try:
        yield
    finally:
        insist(lambda: _put(world, queue, bodies))


@contextlib.contextmanager
def answers_contradicted(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
    """Devices answer both `locked` and `rejected`, in either order."""
    for body in _intercept(world, ANSWERS):
        both = [body]
        with contextlib.suppress(ValueError, KeyError, TypeError):  # another fault's noise
            message = json.loads(body)
            answer = json.loads(base64.b64decode(message["payload"]))
            # Only what is really locked is contradicted: to say `locked` of what one does not hold would be a lie.
            if answer["status"] == "locked":
                both.append(_message(message["principal"], message["topic"], {**answer, "status": "rejected"}))
        chance.shuffle(both)
        _put(world, ANSWERS, both)
    yield


def _message(principal: str, topic: str, payload: object, *, client_id: str | None = None) -> str:
    """A message as a topic rule queues it; `client_id` is the topic's device unless another is given."""
    return json.dumps(
        {
            "payload": base64.b64encode(json.dumps(payload).encode()).decode(),
            "topic": topic,
            "client_id": topic.split("/")[2] if client_id is None else client_id,
            "principal": principal,
            "received_at_ms": int(time.time() * 1000),
        }
    )


@contextlib.contextmanager
def messages_forged(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
    """Answers of a wrong device, over a foreign connection or certificate, for an unknown order or trade; and noise."""
    with world.connect() as conn:
        trades = conn.execute(
            "SELECT id, device_id, sell_order_id FROM transactions ORDER BY status = 'Pending' DESC, seq DESC LIMIT 20"
        ).fetchall()
        own = dict(conn.execute("SELECT device_id::text, id FROM device_certificates").fetchall())
    if not trades:
        raise NotNow("there are no trades yet")
    trade, device, order = map(str, chance.choice(trades))
    other = str(chance.choice([home.device.device_id for home in world.street.homes if home.device is not None]))
    nobody, nothing = str(uuid.UUID(int=chance.getrandbits(128))), str(uuid.UUID(int=chance.getrandbits(128)))

    def answer(of: str, *, client: str, order_id: str, transaction_id: str, status: str) -> str:
        payload = {"order_id": order_id, "status": status, "transaction_id": transaction_id}
        return _message(own.get(of, ""), f"energy/donor/{of}/lock/response", payload, client_id=client)

    forged = []
    for status in ("locked", "rejected"):
        if other != device:
            forged.append(answer(other, client=other, order_id=order, transaction_id=trade, status=status))
        forged.append(answer(device, client=nobody, order_id=order, transaction_id=trade, status=status))
        forged.append(answer(device, client=device, order_id=nothing, transaction_id=trade, status=status))
        forged.append(answer(device, client=device, order_id=order, transaction_id=nothing, status=status))
        forged.append(answer(nobody, client=nobody, order_id=order, transaction_id=trade, status=status))
    topic = f"energy/donor/{device}/lock/response"
    forged.append(_message(own[device], topic, "no answer at all"))
    for principal in ("", nobody, *([] if other == device else [own[other]])):
        said = {"order_id": order, "status": "locked", "transaction_id": trade}
        forged.append(_message(principal, topic, said))
    forged.append("not even a message")
    delivered = {"transaction_id": trade, "status": "delivered", "kwh_delivered": 1, "seq": 2**62}
    if other != device:
        _put(world, REPORTS, [_message(own[other], f"energy/transfer/{other}/status", delivered)])
    _put(world, REPORTS, [_message("", f"energy/transfer/{device}/status", delivered), "noise"])
    chance.shuffle(forged)
    _put(world, ANSWERS, forged)
    yield
