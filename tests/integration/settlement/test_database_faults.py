"""The database goes away, or refuses, at each request of a sweep; the loop's next sweep goes on from there."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from energy_market.database import UNAVAILABLE, Database
from energy_market.domain.settlement import SettlementRules
from tests.support.chain.shop import CONFIRMED, FINALITY, RULES, Life, Shop
from tests.support.chain.world import World
from tests.support.fixtures import MakePooler
from tests.support.trouble.alongside import Alongside
from tests.support.trouble.disturbances import disturb, each_silence
from tests.support.trouble.pooler import MODES, Mode
from tests.support.trouble.postgres_proxy import Proxy


def paid_and_refused(shop: Shop) -> Iterator[SettlementRules]:
    shop.locked()
    shop.locked(by=shop.poor)
    yield RULES
    shop.world.mine(FINALITY)
    yield RULES


def test_a_sweep_that_is_disturbed_pays_each_trade_once(forgetful: World, proxy: Proxy) -> None:
    shop = Shop(forgetful)

    def refused() -> None:
        assert all(isinstance(error, UNAVAILABLE) for error in shop.failed)
        shop.failed.clear()

    disturb(
        proxy,
        shop.on,
        lambda: Life(shop=shop, script=paid_and_refused, expected=[CONFIRMED, ("Failed", "insufficient_escrow")]),
        refused=refused,
    )
    shop.agrees()


def test_a_sweep_for_which_the_server_falls_silent_pays_each_trade_once(
    forgetful: World, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("energy_market.database.BEYOND_STATEMENT_S", 0.2)
    shop = Shop(forgetful)

    def refused() -> None:
        assert all(isinstance(error, UNAVAILABLE) for error in shop.failed)
        shop.failed.clear()

    disturb(
        proxy,
        shop.on,
        lambda: Life(shop=shop, script=paid_and_refused, expected=[CONFIRMED, ("Failed", "insufficient_escrow")]),
        disturbances=lambda requests: each_silence(requests)[::12],
        refused=refused,
        database=lambda url: Database(url, statement_s=0.5),
    )
    shop.agrees()


@pytest.mark.parametrize("mode", MODES)
def test_sweeps_pay_through_a_pooler_that_gives_them_other_sessions(
    forgetful: World, pooler_of: MakePooler, mode: Mode
) -> None:
    pooler = pooler_of(mode)
    shop = Shop(forgetful)
    is_over = threading.Event()

    def reads() -> None:
        """Somebody else, whom the pooler gives the session that a sweep has just had."""
        with closing(Database(pooler.url)) as database:
            while not is_over.is_set():
                assert database.statement(lambda conn: conn.execute("SELECT %s::text", ("mine",)).fetchall()) == [
                    ("mine",)
                ]

    somebody = Alongside(reads)
    try:
        for _ in range(4):
            with shop.on(Database(pooler.url)):
                life = Life(shop=shop, script=paid_and_refused, expected=[CONFIRMED, ("Failed", "insufficient_escrow")])
                life.go()
                life.run_on()
                life.check()
        assert shop.failed == []
    finally:
        is_over.set()
        somebody.end()
    shop.agrees()
