"""The database goes away, or refuses, at each request of a sweep; the loop's next sweep goes on from there."""

from collections.abc import Iterator

from energy_market.database import UNAVAILABLE
from energy_market.domain.settlement import SettlementRules
from tests.integration.disturbances import disturb
from tests.integration.postgres_proxy import Proxy
from tests.integration.settlement.shop import CONFIRMED, FINALITY, RULES, Life, Shop
from tests.integration.settlement.world import World


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
