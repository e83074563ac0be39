"""Which energy is promised to whom: never more than there is, and one answer to each id, however often it comes."""

from uuid import UUID

import pytest
from energy_device.reservations import HOLDING, Lock, RefusedError, Reservation, Reservations, State
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

ORDER = "0a000000-0000-4000-8000-000000000001"
TRADE = "0b000000-0000-4000-8000-000000000001"


def lock(trade: str = TRADE, *, order: str = ORDER, energy_wh: int = 1_500) -> Lock:
    return Lock(id=trade, order_id=order, energy_wh=energy_wh)


def decided(*, free_wh: int = 5_000) -> Reservations:
    reservations = Reservations()
    reservations.record(reservations.lock(lock(), free_wh=free_wh))
    return reservations


def test_a_lock_holds_energy_that_is_free() -> None:
    reservations = decided(free_wh=1_500)
    assert reservations.reserved_wh() == 1_500
    assert [held.id for held in reservations.holding()] == [TRADE]


def test_a_lock_for_more_than_is_free_is_rejected() -> None:
    decision = Reservations().lock(lock(energy_wh=1_501), free_wh=1_500)
    assert (decision.state, decision.reason) == (State.REJECTED, "insufficient_energy")


def test_deciding_changes_nothing_until_it_is_recorded() -> None:
    reservations = Reservations()
    reservations.lock(lock(), free_wh=5_000)
    assert reservations.find(TRADE) is None


def test_a_repeated_lock_gets_the_answer_it_got_before() -> None:
    reservations = Reservations()
    first = reservations.lock(lock(), free_wh=5_000)
    reservations.record(first)
    assert reservations.lock(lock(), free_wh=0) is first


def test_a_rejected_lock_stays_rejected_when_energy_is_free_again() -> None:
    reservations = decided(free_wh=0)
    assert reservations.lock(lock(), free_wh=5_000).state is State.REJECTED


@pytest.mark.parametrize("other", [lock(energy_wh=1_501), lock(order="0a000000-0000-4000-8000-000000000002")])
def test_the_same_id_with_other_terms_is_refused_and_changes_nothing(other: Lock) -> None:
    reservations = decided()
    with pytest.raises(RefusedError) as refused:
        reservations.lock(other, free_wh=5_000)
    assert refused.value.code == "lock_conflict"
    assert reservations.reserved_wh() == 1_500


def test_a_device_full_of_locks_rejects_the_next() -> None:
    reservations = Reservations(max_locks=1)
    reservations.record(reservations.lock(lock(), free_wh=5_000))
    second = reservations.lock(lock("0b000000-0000-4000-8000-000000000002"), free_wh=5_000)
    assert (second.state, second.reason) == (State.REJECTED, "too_many_locks")


def test_an_unlock_gives_the_energy_free() -> None:
    reservations = decided()
    reservations.record(reservations.unlock(TRADE))
    assert reservations.reserved_wh() == 0


def test_a_lock_that_arrives_after_its_unlock_is_refused() -> None:
    reservations = Reservations()
    reservations.record(reservations.unlock(TRADE))
    decision = reservations.lock(lock(), free_wh=5_000)
    assert (decision.state, decision.reason) == (State.REJECTED, "released")


def test_a_lock_repeated_after_its_unlock_holds_nothing() -> None:
    reservations = decided()
    reservations.record(reservations.unlock(TRADE))
    assert reservations.lock(lock(), free_wh=5_000).state is State.RELEASED


def test_an_unlock_of_a_rejected_lock_changes_nothing() -> None:
    reservations = decided(free_wh=0)
    assert reservations.unlock(TRADE) is reservations.find(TRADE)


@pytest.mark.parametrize(("fed_wh", "state", "delivered_wh"), [
    (0, State.STOPPED, 0),
    (1_499, State.STOPPED, 1_499),
    (1_500, State.DELIVERED, 1_500),
    (1_501, State.DELIVERED, 1_500),
])  # fmt: skip
def test_a_delivery_ends_with_what_was_fed_and_never_more_than_was_reserved(
    fed_wh: int, state: State, delivered_wh: int
) -> None:
    reservations = decided()
    reservations.record(reservations.transfer(TRADE, energy_wh=1_500))
    ended = reservations.ended(TRADE, fed_wh=fed_wh)
    assert (ended.state, ended.delivered_wh) == (state, delivered_wh)
    reservations.record(ended)
    assert reservations.reserved_wh() == 0
    assert reservations.unlock(TRADE) is ended
    assert reservations.transfer(TRADE, energy_wh=1_500) is ended
    assert reservations.lock(lock(), free_wh=5_000) is ended


def test_a_transfer_begins_once_and_ends_once() -> None:
    reservations = decided()
    begun = reservations.transfer(TRADE, energy_wh=1_500)
    assert begun.state is State.DELIVERING
    reservations.record(begun)
    assert reservations.transfer(TRADE, energy_wh=1_500) is begun
    done = reservations.ended(TRADE, fed_wh=1_500)
    reservations.record(done)
    assert reservations.reserved_wh() == 0
    assert reservations.transfer(TRADE, energy_wh=1_500) is done
    with pytest.raises(KeyError):
        reservations.ended(TRADE, fed_wh=1_500)


def test_a_lock_repeated_after_delivery_is_answered_as_before_and_holds_nothing() -> None:
    reservations = decided()
    reservations.record(reservations.transfer(TRADE, energy_wh=1_500))
    reservations.record(reservations.ended(TRADE, fed_wh=1_500))
    assert reservations.lock(lock(), free_wh=0).state is State.DELIVERED
    assert reservations.holding() == []


def test_a_transfer_without_a_lock_is_refused() -> None:
    with pytest.raises(RefusedError) as refused:
        Reservations().transfer(TRADE, energy_wh=1_500)
    assert refused.value.code == "unknown_transfer"


def test_a_transfer_of_a_released_lock_is_refused() -> None:
    reservations = decided()
    reservations.record(reservations.unlock(TRADE))
    with pytest.raises(RefusedError) as refused:
        reservations.transfer(TRADE, energy_wh=1_500)
    assert refused.value.code == "transfer_refused"


def test_a_transfer_of_another_amount_is_refused() -> None:
    with pytest.raises(RefusedError) as refused:
        decided().transfer(TRADE, energy_wh=1_499)
    assert refused.value.code == "transfer_mismatch"


def test_of_ended_reservations_the_oldest_is_forgotten_and_of_held_ones_none() -> None:
    reservations = Reservations(max_history=2)
    ids = [f"0b000000-0000-4000-8000-{number:012}" for number in range(5)]
    reservations.record(reservations.lock(lock(ids[0]), free_wh=5_000))
    for ended in ids[1:4]:
        reservations.record(reservations.unlock(ended))
    assert [reservations.find(each) is not None for each in ids[:4]] == [True, False, True, True]
    assert reservations.forgotten_by(reservations.unlock(ids[4])) == [ids[2]]


def test_a_lock_of_nothing_cannot_exist() -> None:
    with pytest.raises(ValueError, match="positive"):
        lock(energy_wh=0)


class LifeOfADevice(RuleBasedStateMachine):
    """Commands in any order, repeated, late and contradictory, against a battery that fills and empties."""

    trades = st.integers(0, 5).map(lambda number: str(UUID(int=number)))
    amounts = st.sampled_from([400, 1_000, 2_500])

    def __init__(self) -> None:
        super().__init__()
        self.reservations = Reservations()
        self.charge_wh = 0
        self.answers: dict[str, bool] = {}
        self.terms: dict[str, int] = {}
        self.unlocked: set[str] = set()
        self.fed: dict[str, int] = {}

    @initialize(charge_wh=st.integers(0, 8_000))
    def begin(self, charge_wh: int) -> None:
        self.charge_wh = charge_wh

    def take(self, decision: Reservation) -> None:
        self.reservations.record(decision)

    @rule(energy_wh=st.integers(0, 3_000))
    def the_sun_shines(self, energy_wh: int) -> None:
        self.charge_wh += energy_wh

    @rule(share=st.floats(0, 1))
    def the_home_draws_what_is_not_promised(self, share: float) -> None:
        self.charge_wh -= int((self.charge_wh - self.reservations.reserved_wh()) * share)

    @rule(trade=trades, energy_wh=amounts)
    def lock(self, trade: str, energy_wh: int) -> None:
        free_wh = self.charge_wh - self.reservations.reserved_wh()
        command = Lock(id=trade, order_id=ORDER, energy_wh=energy_wh)
        try:
            decision = self.reservations.lock(command, free_wh=free_wh)
        except RefusedError:
            assert self.terms[trade] != energy_wh
            return
        locked = decision.state not in (State.REJECTED, State.RELEASED)
        assert self.terms.setdefault(trade, energy_wh) == energy_wh
        if trade in self.unlocked:
            assert not locked
        elif trade in self.answers:
            assert locked == self.answers[trade]
        else:
            assert locked == (energy_wh <= free_wh)
            self.answers[trade] = locked
        self.take(decision)

    @rule(trade=trades, share=st.floats(0, 0.99))
    def unlock(self, trade: str, share: float) -> None:
        known = self.reservations.find(trade)
        if known is not None and known.state is State.DELIVERING:
            self.end(known, int(known.energy_wh * share))
        decision = self.reservations.unlock(trade)
        if decision.state is State.RELEASED:
            self.unlocked.add(trade)
        self.take(decision)

    def end(self, known: Reservation, fed_wh: int) -> None:
        self.charge_wh -= fed_wh
        assert known.id not in self.fed
        self.fed[known.id] = fed_wh
        self.take(self.reservations.ended(known.id, fed_wh=fed_wh))

    @rule(trade=trades, energy_wh=amounts)
    def transfer(self, trade: str, energy_wh: int) -> None:
        try:
            decision = self.reservations.transfer(trade, energy_wh=energy_wh)
        except RefusedError:
            return
        assert self.answers[trade]
        assert trade not in self.unlocked
        self.take(decision)

    @rule(trade=trades)
    def finish(self, trade: str) -> None:
        known = self.reservations.find(trade)
        if known is not None and known.state is State.DELIVERING:
            self.end(known, known.energy_wh)

    @rule()
    def restart(self) -> None:
        trades = [str(UUID(int=number)) for number in range(6)]
        known = [each for trade in trades if (each := self.reservations.find(trade)) is not None]
        self.reservations = Reservations(known)

    @invariant()
    def no_more_is_promised_than_there_is(self) -> None:
        assert self.reservations.reserved_wh() <= self.charge_wh

    @invariant()
    def what_is_reserved_is_what_is_held(self) -> None:
        held = self.reservations.holding()
        assert sum(each.energy_wh for each in held) == self.reservations.reserved_wh()
        assert all(each.state in HOLDING for each in held)

    @invariant()
    def nothing_is_delivered_that_was_not_locked(self) -> None:
        assert all(self.answers[trade] and trade not in self.unlocked for trade in self.fed)


TestLifeOfADevice = LifeOfADevice.TestCase
TestLifeOfADevice.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
