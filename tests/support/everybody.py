"""Somebody who orders, and trades in the midst of their life: what they meet when the database is ill, and after."""

import pytest

from energy_market.database import UNAVAILABLE
from energy_market_client.errors import UnreachableError
from tests.support.loop import Living, Loop
from tests.support.market import Market
from tests.support.neighbours import Api, Ordering


class Everybody:
    def __init__(self, api: Api, loop: Loop, market: Market) -> None:
        self.api, self.loop = api, loop
        self.living, self.ordering = Living(loop, market), Ordering(api, market)
        loop.tick()
        assert loop.queue, "the devices have answered, and nobody has heard it yet"

    def is_refused(self) -> None:
        """The client is to come again, the tick fails, and the queues keep every message."""
        with pytest.raises(UnreachableError, match="database_unavailable"):
            self.ordering.go()
        for answer in self.api.refused:
            assert (answer.refusal, answer.headers["Retry-After"]) == ((503, "database_unavailable"), "2")
        self.loop.tick()
        assert [isinstance(error, UNAVAILABLE) for error in self.loop.failed] == [True, True], self.loop.failed
        self.loop.failed.clear()
        said = list(self.loop.queue)
        self.loop.deliver()
        assert list(self.loop.queue) == said

    def goes_on(self) -> None:
        """With the sandboxes that were refused."""
        self.ordering.go()
        while self.loop.queue:
            self.loop.deliver()
        self.loop.pay()
        self.living.run_on()
        self.living.check()
        self.ordering.check()
        assert self.loop.failed == []
