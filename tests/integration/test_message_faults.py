"""Each kind of message twice, in any order, too late, lost, and from somebody else: a table for each.

What counts is where the trade, its orders and its device stand afterwards.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from uuid import UUID, uuid4

import psycopg
import pytest

from energy_market.domain import topics
from energy_market.messages.received import Dropped, QueuedMessage
from energy_market.postgres.commands import LOCK_REPEAT_S
from energy_market.postgres.reconciliation import database_differences
from energy_market.usecases.record_lock_response import record_lock_response
from energy_market.usecases.record_telemetry import record_telemetry
from tests.support.market import SETTINGS, Market, certificate_of, now_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """Where all of a scene stands, told in the same words for any scene."""

    status: object
    reason: object
    unlock: object
    delivery: tuple[object, ...]  # what, why, Wh
    device: tuple[object, ...]  # status, Wh, whether it lists the lock, how many it lists
    device_is_silent: object
    book: tuple[object, ...]
    ask: str
    bid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A trade of 500 Wh whose lock is published, and its donor's device, which has 5 kWh."""

    market: Market
    device: UUID
    ask: UUID
    bid: UUID
    trade: UUID

    def take(self, message: QueuedMessage) -> str:
        """What became of a message, in a word."""
        try:
            with self.market.database.transaction() as conn:
                if message.topic.endswith("/lock/response"):
                    outcome, _ = record_lock_response(conn, message, settlement_window_s=SETTINGS.settlement_window_s)
                    return outcome
                return record_telemetry(conn, message).kind
        except Dropped as dropped:
            return dropped.reason

    def take_all(self, messages: Sequence[QueuedMessage]) -> Stand:
        for message in messages:
            self.take(message)
        return self.stand()

    def stand(self) -> Stand:
        ((status, reason, unlock, *delivery),) = self.market.sql(
            "SELECT status, reason, unlock, delivery, delivery_reason, delivered_wh FROM transactions WHERE id = %s",
            self.trade,
        )
        ((silent, *device),) = self.market.sql(
            """
            SELECT silent_since IS NOT NULL, status, available_wh, reported_locks = ARRAY[%s::uuid],
                   cardinality(reported_locks)
            FROM iot_devices WHERE id = %s
            """,
            self.trade,
            self.device,
        )
        book = self.market.sql(
            "SELECT type, remaining_wh FROM open_orders WHERE order_id IN (%s, %s) ORDER BY type", self.ask, self.bid
        )
        return Stand(
            status=status,
            reason=reason,
            unlock=unlock,
            delivery=tuple(delivery),
            device=tuple(device),
            device_is_silent=silent,
            book=tuple(book),
            ask=self.market.status_of(self.ask),
            bid=self.market.status_of(self.bid),
        )

    def sold(self) -> "Scene":
        """The trade was locked, paid, and told to be delivered."""
        assert self.take(lock_response(self, "locked")) == "locked"
        self.market.confirm(self.trade)
        self.market.publish()
        return self

    def left(self) -> "Scene":
        """Its device was connected once, and is not."""
        self.take(presence(self, "connected", "before", 0))
        self.take(presence(self, "disconnected", "before", 0))
        return self

    def seconds_later(self, seconds: float) -> "Scene":
        """Its deadlines are so much nearer."""
        self.market.sql(
            """
            UPDATE transactions SET expires_at = expires_at - make_interval(secs => %s),
                command_sent_at = command_sent_at - make_interval(secs => %s) WHERE id = %s
            """,
            seconds,
            seconds,
            self.trade,
        )
        return self


class Scenes:
    """As many scenes as a table has rows. Their orders never meet."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self._price_micro = 1_000_000

    def another(self) -> Scene:
        self._price_micro -= 1
        home, buyer = self.market.home(available_wh=None), self.market.user()
        self.market.status(home.device, available_wh=5_000, seq=10)
        ask = self.market.order(home.user, "sell", 500, self._price_micro)
        bid = self.market.order(buyer, "buy", 500, self._price_micro)
        (trade,) = self.market.tick().trade_ids
        self.market.publish()
        return Scene(market=self.market, device=home.device, ask=ask, bid=bid, trade=trade)


@pytest.fixture
def scenes(market: Market, database_url: str) -> Iterator[Scenes]:
    """Whatever their messages are, the books agree afterwards."""
    yield Scenes(market)
    with psycopg.connect(database_url) as conn:
        assert database_differences(conn, at_rest=False).as_lines() == []


# ------------------------------------------------------------------------------------------------ what devices say


def lock_response(scene: Scene, status: str, *, device: UUID | None = None, **other: object) -> QueuedMessage:
    said = {"order_id": str(scene.ask), "transaction_id": str(scene.trade), "status": status} | other
    return Market.say(topics.of(topics.LOCK_RESPONSE, device or scene.device), said)


def status(scene: Scene, seq: int, available_kwh: float, *locks: UUID, device: UUID | None = None) -> QueuedMessage:
    said = {"available_kwh": available_kwh, "locks": [str(lock) for lock in locks], "seq": seq}
    return Market.say(f"energy/donor/{device or scene.device}/status", said)


def transfer(scene: Scene, seq: int, state: str, kwh: float, *, device: UUID | None = None) -> QueuedMessage:
    said = {"transaction_id": str(scene.trade), "status": state, "kwh_delivered": kwh, "seq": seq}
    return Market.say(f"energy/transfer/{device or scene.device}/status", said)


NOW_MS = now_ms()


def presence(scene: Scene, kind: str, session: str, place: int) -> QueuedMessage:
    device = str(scene.device)
    said = {
        "clientId": device,
        "timestamp": NOW_MS + place,
        "eventType": kind,
        "sessionIdentifier": session,
        "principalIdentifier": certificate_of(device),
    }
    return Market.say(f"{topics.PRESENCE}{kind}/{device}", said, client_id="n/a")


Story = Callable[[Scene], list[QueuedMessage]]

# Each in the order in which it was said: what was said last is what counts in the end, in whatever order it arrives.
STORIES: dict[str, Story] = {
    "status": lambda s: [status(s, 11, 4), status(s, 12, 3, s.trade), status(s, 13, 2)],
    "transfer": lambda s: [
        transfer(s.sold(), 20, "started", 0),
        transfer(s, 21, "delivering", 0.2),
        transfer(s, 22, "delivered", 0.5),
    ],
    "transfer that falls short": lambda s: [
        transfer(s.sold(), 20, "started", 0),
        transfer(s, 21, "delivering", 0.2),
        transfer(s, 22, "delivered", 0.3),
    ],
    "presence, away and back": lambda s: [
        presence(s.left(), "connected", "a", 1),
        presence(s, "disconnected", "a", 2),
        presence(s, "connected", "b", 3),
    ],
    "presence, away for good": lambda s: [
        presence(s.left(), "connected", "a", 1),
        presence(s, "connected", "b", 2),
        presence(s, "disconnected", "a", 3),
        presence(s, "disconnected", "b", 4),
    ],
    "locked": lambda s: [lock_response(s, "locked")],
    "rejected": lambda s: [lock_response(s, "rejected")],
}


@pytest.mark.parametrize("story", STORIES)
def test_a_message_that_comes_twice_counts_once(scenes: Scenes, story: str) -> None:
    scene, again = scenes.another(), scenes.another()
    once = scene.take_all(STORIES[story](scene))
    messages = STORIES[story](again)
    assert again.take_all([one for message in messages for one in (message, message)]) == once
    assert again.take_all(messages) == once, "all of it once more, and later"
    before = again.market.sql("SELECT count(*) FROM events")
    again.take_all(messages)
    assert again.market.sql("SELECT count(*) FROM events") == before


@pytest.mark.parametrize("story", [name for name in STORIES if name not in {"locked", "rejected"}])
def test_messages_that_overtake_each_other_end_where_they_would_have_ended(scenes: Scenes, story: str) -> None:
    scene = scenes.another()
    said = STORIES[story](scene)
    in_order = scene.take_all(said)
    for places in permutations(range(len(said))):
        other = scenes.another()
        messages = STORIES[story](other)
        assert other.take_all([messages[place] for place in places]) == in_order, places


def test_a_device_that_is_back_before_it_was_missed_is_there_at_its_next_word_at_the_latest(scenes: Scenes) -> None:
    """Its new session begins before the broker notices the end of the old one; if that is told first, it seems gone."""
    for places in permutations(range(3)):
        scene = scenes.another().left()
        events = [
            presence(scene, "connected", "a", 1),
            presence(scene, "connected", "b", 2),
            presence(scene, "disconnected", "a", 3),
        ]
        scene.take_all([events[place] for place in places])
        assert scene.take_all([status(scene, 11, 5)]).device[0] == "Online", places


@pytest.mark.parametrize("story", [name for name in STORIES if name not in {"locked", "rejected"}])
def test_a_message_that_is_lost_is_made_up_for_by_the_next(scenes: Scenes, story: str) -> None:
    scene = scenes.another()
    in_order = scene.take_all(STORIES[story](scene))
    for lost in range(2):
        other = scenes.another()
        messages = STORIES[story](other)
        assert other.take_all(messages[:lost] + messages[lost + 1 :]) == in_order, lost


# ------------------------------------------------------------------------------------------------ answers to locks

LOCKED, REJECTED = "locked", "rejected"
FIRST_COUNTS = {LOCKED: ("Locked", None), REJECTED: ("Failed", "lock_rejected")}


def test_of_answers_that_contradict_each_other_the_first_counts(scenes: Scenes) -> None:
    """Every order of four answers, of which at least one is of either kind."""
    for answers in (some for some in product((LOCKED, REJECTED), repeat=4) if len(set(some)) > 1):
        scene = scenes.another()
        outcomes = [scene.take(lock_response(scene, answer)) for answer in answers]
        first = answers[0]
        contradicted = "contradicted" if first == LOCKED else "late"
        assert outcomes == [first, *("repeated" if answer == first else contradicted for answer in answers[1:])]
        stand = scene.stand()
        assert (stand.status, stand.reason) == FIRST_COUNTS[first], answers
        # What a device reserved after it had refused is released.
        assert stand.unlock == ("Owed" if first == REJECTED else None), answers


@pytest.mark.parametrize("tick_first", [True, False])
def test_an_answer_after_its_deadline_locks_nothing(scenes: Scenes, *, tick_first: bool) -> None:
    for answers in ([LOCKED], [REJECTED], [LOCKED, REJECTED], [REJECTED, LOCKED], [LOCKED] * 3):
        scene = scenes.another().seconds_later(SETTINGS.lock_timeout_s)
        if tick_first:
            scene.market.tick()
        for answer in answers:
            scene.take(lock_response(scene, answer))
        scene.market.tick()
        stand = scene.stand()
        # Refusing is no deadline's matter: until a tick has closed the trade, the device's own word is the reason.
        refused = not tick_first and REJECTED in answers
        assert (stand.status, stand.reason) == ("Failed", "lock_rejected" if refused else "lock_timeout"), answers
        assert stand.unlock == ("Owed" if not refused or answers[-1] == LOCKED else None), answers
        assert stand.device_is_silent, answers
        assert stand.bid == "Created", answers


def test_a_lock_that_does_not_arrive_is_said_again_until_its_deadline_and_under_it(scenes: Scenes) -> None:
    scene = scenes.another()
    ((deadline,),) = scene.market.sql("SELECT expires_at FROM transactions")
    said = 0
    while True:
        scene.market.published.clear()
        scene.seconds_later(LOCK_REPEAT_S + 1)
        if scene.market.tick().locks_expired:
            break
        scene.market.publish()
        said += 1
        ((now_due,),) = scene.market.sql("SELECT expires_at FROM transactions")
        assert [c.expires_at for c in scene.market.published] == [now_due]
    assert said == SETTINGS.lock_timeout_s // (LOCK_REPEAT_S + 1) - 1
    assert deadline is not None
    stand = scene.stand()
    assert (stand.status, stand.reason, stand.unlock) == ("Failed", "lock_timeout", "Owed")


@pytest.mark.parametrize("answer", [LOCKED, REJECTED])
def test_an_answer_that_is_lost_is_given_again_when_the_lock_is_said_again(scenes: Scenes, answer: str) -> None:
    scene = scenes.another().seconds_later(LOCK_REPEAT_S + 1)
    scene.market.published.clear()
    scene.market.publish()
    assert [command.transaction_id for command in scene.market.published] == [scene.trade]
    assert scene.take(lock_response(scene, answer)) == answer


def test_a_lock_that_overtakes_its_devices_status_counts(scenes: Scenes) -> None:
    """The device reserved, said so, and reported it; the report comes first."""
    scene = scenes.another()
    assert scene.take(status(scene, 11, 5, scene.trade)) == "donor_status"
    assert scene.take(lock_response(scene, LOCKED)) == LOCKED
    assert scene.stand().status == "Locked"


def test_a_report_of_a_delivery_that_overtakes_the_payment_changes_nothing_and_is_made_up_for(scenes: Scenes) -> None:
    scene = scenes.another()
    assert scene.take(transfer(scene, 20, "delivered", 0.5)) == "unpaid_trade_or_old_news"
    assert scene.take(lock_response(scene, LOCKED)) == LOCKED
    assert scene.take(transfer(scene, 20, "delivered", 0.5)) == "unpaid_trade_or_old_news"
    scene.market.confirm(scene.trade)
    scene.market.published.clear()
    scene.market.publish()
    assert [command.kind for command in scene.market.published] == ["transfer"]
    assert scene.take(transfer(scene, 21, "delivered", 0.5)) == "transfer"
    assert scene.stand().delivery == ("Delivered", None, 500)


# ------------------------------------------------------------------------------------------------ somebody else's

Forgery = Callable[[Scene, Scene], QueuedMessage]


def under_another_client(message: QueuedMessage, client: UUID) -> QueuedMessage:
    return QueuedMessage(
        topic=message.topic,
        client_id=str(client),
        principal=message.principal,
        payload=message.payload,
        received_at_ms=message.received_at_ms,
    )


# (whose trade it is about, whose device says it)
FORGERIES: dict[str, Forgery] = {
    f"{kind}, {what}": forge
    for kind in (LOCKED, REJECTED)
    for what, forge in {
        "from another device": lambda own, other, kind=kind: lock_response(own, kind, device=other.device),
        "under another's topic": lambda own, other, kind=kind: under_another_client(
            lock_response(own, kind), other.device
        ),
        "of another's trade for one's own order": lambda own, other, kind=kind: lock_response(
            other, kind, transaction_id=str(own.trade)
        ),
        "of one's own trade for another's order": lambda own, other, kind=kind: lock_response(
            other, kind, order_id=str(own.ask)
        ),
        "with a made-up trade": lambda own, _other, kind=kind: lock_response(own, kind, transaction_id=str(uuid4())),
        "for an unknown order": lambda own, _other, kind=kind: lock_response(own, kind, order_id=str(uuid4())),
        "for the bid": lambda own, _other, kind=kind: lock_response(own, kind, order_id=str(own.bid)),
        "without a trade, for another's order": lambda own, other, kind=kind: lock_response(
            own, kind, transaction_id=None, device=other.device
        ),
        "from an unknown device": lambda own, _other, kind=kind: lock_response(own, kind, device=uuid4()),
    }.items()
} | {
    "status under another's topic": lambda own, other: under_another_client(status(own, 99, 0), other.device),
    "status from an unknown device": lambda own, _other: status(own, 99, 0, device=uuid4()),
    "transfer from another device": lambda own, other: transfer(own, 99, "delivered", 0.5, device=other.device),
    "transfer under another's topic": lambda own, other: under_another_client(
        transfer(own, 99, "delivered", 0.5), other.device
    ),
    "refusal of a transfer from another device": lambda own, other: transfer(
        own, 99, "refused", 0, device=other.device
    ),
    "presence of another": lambda own, other: Market.say(
        f"{topics.PRESENCE}disconnected/{own.device}",
        {
            "clientId": str(other.device),
            "timestamp": NOW_MS + 9,
            "sessionIdentifier": "x",
            "principalIdentifier": certificate_of(other.device),
        },
        client_id="n/a",
    ),
}


@pytest.mark.parametrize("sold", [False, True])
def test_what_somebody_else_says_changes_nothing(scenes: Scenes, *, sold: bool) -> None:
    own, other = scenes.another(), scenes.another()
    if sold:
        own.sold()
    before = own.stand(), other.stand()
    for what, forge in FORGERIES.items():
        assert own.take(forge(own, other)) in {
            "foreign_client",
            "foreign_trade",
            "unknown_certificate",
            "ambiguous_lock_response",
            "unknown_device_or_old_news",
            "unknown_topic",
        }, what
        assert (own.stand(), other.stand()) == before, what


def test_a_device_that_lists_anothers_lock_moves_nothing_of_it(scenes: Scenes) -> None:
    """It says that it holds the energy of a trade which failed at another device: nobody is told to release it."""
    own, other = scenes.another(), scenes.another()
    assert own.take(lock_response(own, REJECTED)) == REJECTED
    before = own.stand()
    assert other.take(status(other, 50, 5, own.trade)) == "donor_status"
    assert own.stand() == before
