"""A process that dies between any two of its side effects: the system runs on, promises hold, all books agree.

Every use case and every handler is in one of the scenarios here, in those of the settlement
(tests/integration/settlement/test_crash_points.py), or in `READS`; the last test holds the list against the code.
What clients do after a lost answer is done by the reference client (localstack/client.py) itself.
"""

import pytest

from tests.integration.crashes import every_crash
from tests.integration.loop import Living, Loop
from tests.integration.market import Market
from tests.integration.neighbours import (
    Api,
    BuildingANode,
    Cancelling,
    LoggingOut,
    MovingHouse,
    Ordering,
    Refreshing,
    RefreshingLater,
    Registering,
    Selling,
    SignedUp,
    SigningUp,
)


def test_a_wallet_signs_up_once_whenever_the_process_dies(api: Api, market: Market) -> None:
    every_crash(
        "sign up and log in",
        api.process,
        lambda: SigningUp(api, market),
        covers={"open_challenge", "sign_up", "answer_challenge", "log_in", "read_profile"}
        | {"auth_api.challenge", "auth_api.signup", "auth_api.login", "auth_api.me"},
        at_least=25,
    )


@pytest.mark.parametrize("stage", [Refreshing, RefreshingLater])
def test_a_session_whose_refresh_was_not_answered_goes_on_or_a_new_one_begins(
    api: Api, market: Market, stage: type[Refreshing]
) -> None:
    every_crash(
        f"refresh a session ({stage.__name__})",
        api.process,
        lambda: stage(api, market),
        covers={"refresh_session", "auth_api.refresh"},
        at_least=5,
    )


@pytest.mark.parametrize(
    ("stage", "covers"),
    [
        (LoggingOut, {"log_out", "auth_api.logout"}),
        (MovingHouse, {"update_profile", "auth_api.change_me"}),
        (BuildingANode, {"register_node", "network_api.register"}),
    ],
)
def test_what_is_asked_again_is_done_once(api: Api, market: Market, stage: type[SignedUp], covers: set[str]) -> None:
    every_crash(stage.__name__, api.process, lambda: stage(api, market), covers=covers, at_least=4)


@pytest.mark.parametrize(
    ("stage", "covers"),
    [
        (Ordering, {"place_order", "answer_once", "market_api.create_order"}),
        (Selling, {"place_order", "answer_once", "market_api.create_order"}),
        (Cancelling, {"cancel_order", "market_api.cancel"}),
    ],
)
def test_an_order_is_placed_once_and_a_cancelled_one_is_closed(
    api: Api, market: Market, stage: type[SignedUp], covers: set[str]
) -> None:
    every_crash(stage.__name__, api.process, lambda: stage(api, market), covers=covers, at_least=6)


def test_a_registration_that_dies_gives_one_device_that_sells(api: Api, market: Market) -> None:
    every_crash(
        "register a device",
        api.process,
        lambda: Registering(api, market),
        covers={"register_device", "iot_api.register"},
        at_least=15,
    )


def test_a_crash_anywhere_in_the_life_of_trades_leaves_each_ended_and_all_books_in_agreement(
    loop: Loop, market: Market
) -> None:
    every_crash(
        "the life of three trades",
        loop.process,
        lambda: Living(loop, market),
        covers={"run_tick", "publish_commands", "record_lock_response", "record_telemetry"}
        | {"matching.tick", "settlement.lock_responses", "telemetry.handle"},
        at_least=20,
    )
