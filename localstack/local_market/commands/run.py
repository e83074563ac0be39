"""`make run`: the whole system on this machine, and a simulated community that trades on it, live.

Environment: HOMES (10), DURATION (seconds from the first order; without it until Ctrl-C), SPEED (simulated seconds in
a second, 320), SEED (of the homes' sizes, 1); those of `stack.start_stack`.

The last line of standard output is one JSON object, the result; everything else goes to standard error. Exit status 0
only if something was traded and database, chain and devices agree.
"""

import contextlib
import json
import os
import time
from typing import Any, Final

import psycopg

from energy_market_client.errors import ApiError, UnreachableError
from energy_market_client.market_client import MarketClient
from local_market.commands.session import FOLDER, LOGS, Interrupts, RunError, Settings, play
from local_market.community.clock import START, SimulatedClock
from local_market.community.household import community
from local_market.community.street import Street
from local_market.parts.places import CHECKOUT
from local_market.parts.processes import stop_what_is_ours
from local_market.stack.market import RATE_LIMITS, LocalMarket, start_market
from local_market.watching.comparison import TOKEN_DECIMALS, Escrow, reconcile
from local_market.watching.display import Display, Moment, say
from local_market.watching.figures import Figures, FunctionLogs, percentile, read_figures, under_way

CURL_FILE: Final = FOLDER / "curl"  # curl's configuration, with an access token, for whoever wants to try the API
TOKEN_PERIOD_S: Final = 600.0
PERIOD_S: Final = 0.5
FIRST_ORDER_TIMEOUT_S: Final = 60.0
REST_TIMEOUT_S: Final = 120.0  # a lock's deadline is 30 s, a settlement takes about 10 s, and each may be repeated


class Run:
    """One run of the community on a system that has been launched."""

    def __init__(self, settings: Settings, market: LocalMarket, interrupts: Interrupts, display: Display) -> None:
        """Nothing is registered yet."""
        self._settings = settings
        self._market = market
        self._interrupts = interrupts
        self._display = display
        self._api_url = market.api_url
        self._logs = FunctionLogs(market.stack.aws.endpoint_url)
        self._example = f"curl -sK {CURL_FILE.relative_to(CHECKOUT)} {self._api_url}/api/v1/market/book"
        self._visitor = MarketClient(self._api_url)
        self._token_renewed_at = 0.0
        self._figures = Figures()
        self._first_order_at: float | None = None
        self._conn: psycopg.Connection[Any] = psycopg.connect(
            market.stack.database.url,
            autocommit=True,
            connect_timeout=10,
            prepare_threshold=None,  # a pooler may stand before somebody else's database
        )
        self.street = Street(
            community(settings.homes, seed=settings.seed),
            api_url=self._api_url,
            clock=SimulatedClock(START, speed=settings.speed),
        )

    def prepare(self) -> None:
        """Register the homes, fund their wallets, connect their devices. Raises StreetError."""
        stack = self._market.stack
        say(f"Registering {self._settings.homes} homes over the public API ...")
        self.street.register()
        say("Depositing test tokens into escrow ...")
        self.street.fund(rpc_url=stack.chain.rpc_url, deployer_key=stack.chain.deployer_key)
        say("Connecting the devices over mutual TLS ...")
        self.street.connect(ca=stack.aws.ca_file.read_bytes(), folder=FOLDER / "devices")
        self._visitor.sign_up()
        self._renew_token()
        say(f"The API is at {self._api_url}/api/v1; try\n  {self._example}")

    def trade(self) -> None:
        """Let the homes trade until the duration is over or a signal comes."""
        self.street.start()
        began = time.monotonic()
        while not self._interrupts.ended.wait(PERIOD_S):
            self._look("trading")
            if self._first_order_at is None:
                if self._figures.orders:
                    self._first_order_at = time.monotonic()
                elif time.monotonic() - began > FIRST_ORDER_TIMEOUT_S:
                    raise RunError(f"No order came in for {FIRST_ORDER_TIMEOUT_S:.0f} s.{self._last_errors()}")
            elif self._settings.duration_s and time.monotonic() - self._first_order_at >= self._settings.duration_s:
                return

    def wind_down(self) -> list[str]:
        """Stop placing, cancel, let what is under way end, reconcile; every difference, one line each."""
        self._look("cancelling open orders")
        late = self.street.stop_trading()
        until = time.monotonic() + REST_TIMEOUT_S
        while under_way(self._conn) and time.monotonic() < until:
            self._look("settling what is under way")
            time.sleep(PERIOD_S)
        with contextlib.suppress(ApiError, UnreachableError):  # what was not collected is a difference below
            self.street.collect()
        self._look("reconciling")
        found = [f"{name} did not end its trading in time" for name in late]
        found += self.street.disconnect()
        ledger = Escrow(
            rpc_url=self._market.stack.chain.rpc_url,
            contract=self._market.settlement_contract,
            token=self._market.token,
            token_decimals=TOKEN_DECIMALS,
        )
        devices = [home.record() for home in self.street.homes]
        found += reconcile(self._conn, ledger=ledger, devices=devices, at_rest=True)
        found += self.street.differences()
        self._look("done")
        return found

    def result(self, *, consistent: bool) -> dict[str, object]:
        """The line for standard output."""
        figures = self._figures
        return {
            "homes": self._settings.homes,
            "orders": figures.orders,
            "trades_confirmed": figures.trades.get("Confirmed", 0),
            "trades_failed": figures.trades.get("Failed", 0),
            "kwh_traded": figures.traded_wh / 1000,
            "tokens_settled": figures.settled_nano / 1e9,
            "match_to_confirmed_ms": {
                "p50": percentile(figures.settle_ms, 50),
                "p99": percentile(figures.settle_ms, 99),
            },
            "tick_ms": {"p50": percentile(self._logs.tick_ms, 50), "p99": percentile(self._logs.tick_ms, 99)},
            "consistent": consistent,
        }

    def close(self) -> None:
        """Let go of the devices, the connections and the terminal; safe to call twice."""
        for sentence in self.street.disconnect():
            say(sentence)
        self._visitor.close()
        self._logs.close()
        self._conn.close()

    def _renew_token(self) -> None:
        token = self._visitor.renew()
        with os.fdopen(os.open(CURL_FILE, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:
            file.write(f'header = "Authorization: Bearer {token}"\n')
        self._token_renewed_at = time.monotonic()

    def _look(self, phase: str) -> None:
        """Read the figures and show them."""
        if time.monotonic() - self._token_renewed_at > TOKEN_PERIOD_S:
            with contextlib.suppress(ApiError, UnreachableError):  # the homes' errors tell if the API is away
                self._renew_token()
        self._figures = read_figures(self._conn)
        self._logs.read()
        began = self._first_order_at
        self._display.show(
            Moment(
                phase=phase,
                elapsed_s=0.0 if began is None else time.monotonic() - began,
                duration_s=self._settings.duration_s,
                street_time=f"{self.street.clock.now():%H:%M}",
                figures=self._figures,
                tick_ms=self._logs.tick_ms,
                ticks_missed=self._logs.ticks_missed,
                api_url=self._api_url,
                example=self._example,
                errors=self._logs.errors + self.street.errors,
                recent_errors=[*self._logs.recent_errors, *self.street.recent_errors()],
            )
        )

    def _last_errors(self) -> str:
        return "".join(f"\n  {sentence}" for sentence in [*self._logs.recent_errors, *self.street.recent_errors()][-3:])


def refuse_a_used_database() -> None:
    """See to it that a database given by DATABASE_URL is an empty one: ours begins with nothing. Raises RunError."""
    url = os.environ.get("DATABASE_URL", "")
    if not url:
        return
    with psycopg.connect(url, connect_timeout=10) as conn:
        row = conn.execute("SELECT to_regclass('schema_migrations') IS NOT NULL").fetchone()
    if row is not None and row[0]:
        raise RunError("The database that DATABASE_URL names holds a market already: `make run` needs an empty one.")


def run(settings: Settings, interrupts: Interrupts) -> int:
    """Launch, trade, wind down, stop; the exit status."""
    market: LocalMarket | None = None
    session: Run | None = None
    try:
        say("Building and starting: PostgreSQL, Anvil, MiniStack, contracts, functions ...")
        market = start_market(FOLDER, parameters=RATE_LIMITS)
        with Display() as display:
            session = Run(settings, market, interrupts, display)
            session.prepare()
            interrupts.trading()
            session.trade()
            found = session.wind_down()
    finally:
        interrupts.stopping()
        if session is not None:
            session.close()
        if market is not None:
            say("Stopping everything ...")
            market.stack.stop()
        stop_what_is_ours()
    for difference in found:
        say(f"DIFFERENCE: {difference}")
    result = session.result(consistent=not found)
    print(json.dumps(result), flush=True)
    return 0 if not found and result["trades_confirmed"] else 1


def main() -> int:
    """Run, and put what went wrong into one sentence."""
    return play("make run", run, first=refuse_a_used_database, logs_of=lambda _: LOGS)
