"""A process that dies between any two of its side effects: the system runs on, promises hold, all books agree.

Every use case and every handler is in one of the scenarios here, in those of the settlement
(tests/integration/settlement/test_crash_points.py), or has no effect to die after; the last tests hold that against the
code. What clients do after a lost answer is done by the reference client (clients/python/energy_market_client) itself.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import boto3
import pytest

from tests.support.fixtures import LoadApi
from tests.support.loop import Living, Loop, MovingBook
from tests.support.market import Market
from tests.support.migrating import Migrating, first_migrations
from tests.support.neighbours import (
    Api,
    AtApi,
    BuildingANode,
    Cancelling,
    Governing,
    LoggingOut,
    MovingHouse,
    Neighbour,
    Ordering,
    Refreshing,
    RefreshingLater,
    Registering,
    RegisteringAgain,
    Removing,
    Revoking,
    Rotating,
    Selling,
    SigningUp,
    Tidying,
)
from tests.support.trouble.covered import COVERS as COVERS_OF_SETTLEMENT
from tests.support.trouble.crashes import FUNCTIONS, USE_CASES, Fuse, FusedDatabase, every_crash, occupy

# Use cases (by module) and handlers (as folder.handler) that a process passes through before it dies.
COVERS: Final[dict[str, set[str]]] = {
    "SigningUp": {"open_challenge", "sign_up", "answer_challenge", "log_in", "read_profile"}
    | {"auth_api.challenge", "auth_api.signup", "auth_api.login", "auth_api.me"},
    "Refreshing": {"refresh_session", "auth_api.refresh"},
    "RefreshingLater": {"refresh_session", "auth_api.refresh"},
    "LoggingOut": {"log_out", "auth_api.logout"},
    "MovingHouse": {"update_profile", "auth_api.change_me"},
    "BuildingANode": {"register_node", "answer_once", "network_api.register"},
    "Ordering": {"place_order", "answer_once", "market_api.create_order"},
    "Selling": {"place_order", "answer_once", "market_api.create_order"},
    "Cancelling": {"cancel_order", "market_api.cancel"},
    "Governing": {"name_operator", "pause_market", "set_kyc_status", "replay_dead_letters", "revoke_device"}
    | {f"admin_api.{view}" for view in ("pause", "resume", "kyc", "replay", "revoke")},
    "Registering": {"register_device", "iot_api.register"},
    "Rotating": {"rotate_certificate", "iot_api.rotate"},
    "Revoking": {"revoke_certificates", "tidy_device", "iot_api.revoke"},
    "Removing": {"remove_device", "tidy_device", "iot_api.remove"},
    "Tidying": {"tidy_device", "device_tidying.sweep"},
    "RegisteringAgain": {"register_device", "iot_api.register"},
    "Living": {"run_tick", "publish_commands", "record_lock_response", "record_telemetry", "report_failures"}
    | {"note_refusals"}
    | {
        "recognise_device",
        "wake_sweep",
        "matching.tick",
        "matching.commands",
        "settlement.lock_responses",
        "telemetry.handle",
    },
    "MovingBook": {"run_tick", "matching.tick", "matching.commands"},
    "Migrating": {"migrations.handle"},
}
# What changes nothing, and cannot: times are worked out, and zones listed; the nightly comparison's session only reads;
# the deploy's check only asks the chain.
WITHOUT_EFFECT: Final = {"matching.marks", "reconcile", "reconciliation.reconcile", "settlement.check"}


@pytest.mark.parametrize(
    ("stage", "at_least"),
    [
        (SigningUp, 22),
        (Refreshing, 4),
        (RefreshingLater, 4),
        (LoggingOut, 3),
        (MovingHouse, 3),
        (BuildingANode, 8),
        (Ordering, 5),
        (Selling, 6),
        (Cancelling, 6),
        (Governing, 16),
        (Registering, 18),
        (RegisteringAgain, 18),
    ],
)
def test_what_a_client_asks_for_is_done_once_whenever_the_process_dies(
    api: Api, market: Market, stage: type[AtApi], at_least: int
) -> None:
    every_crash(
        stage.__name__, api.process, lambda: stage(api, market), covers=COVERS[stage.__name__], at_least=at_least
    )


@pytest.mark.parametrize(("stage", "at_least"), [(Rotating, 8), (Revoking, 7), (Removing, 8), (Tidying, 6)])
def test_no_certificate_opens_a_door_that_should_be_closed_whenever_the_process_dies(
    api: Api, market: Market, stage: type[AtApi], at_least: int
) -> None:
    """After each commit and each call of AWS."""
    every_crash(
        stage.__name__,
        partial(api.process, statements=False),
        lambda: stage(api, market),
        covers=COVERS[stage.__name__],
        at_least=at_least,
    )


def test_a_crash_anywhere_in_the_life_of_trades_leaves_each_ended_and_all_books_in_agreement(
    loop: Loop, market: Market
) -> None:
    every_crash("Living", loop.process, lambda: Living(loop, market), covers=COVERS["Living"], at_least=20)


def test_a_tick_may_die_in_any_of_its_five_attempts(loop: Loop, market: Market) -> None:
    stages: list[MovingBook] = []

    def stage() -> MovingBook:
        stages.append(MovingBook(loop, market))
        return stages[-1]

    @contextmanager
    def process(fuse: Fuse) -> Iterator[None]:
        fuse.meanwhile = stages[-1].cancel_what_was_read
        with loop.process(fuse, statements=True):
            yield

    every_crash("MovingBook", process, stage, covers=COVERS["MovingBook"], at_least=30)


def test_a_deploy_whose_migrations_die_is_finished_by_the_next_call(
    owner_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", owner_url)
    stages: list[Migrating] = []
    migrations = first_migrations(tmp_path / "migrations")

    def stage() -> Migrating:
        stages.append(Migrating(owner_url, migrations))
        return stages[-1]

    def process(fuse: Fuse) -> AbstractContextManager[None]:
        return stages[-1].process(fuse)

    every_crash("Migrating", process, stage, covers=COVERS["Migrating"], at_least=20)


# ------------------------------------------------------------------------------------------------ all of them


def handlers() -> set[str]:
    """What somebody outside may call: handlers by the template, and the API's views but for those that only read."""
    template = (FUNCTIONS.parent / "template.yaml").read_text()
    named = set(re.findall(r"Handler: app\.(\w+)", template)) - {"app"}
    found = set()
    for source in FUNCTIONS.glob("*/app.py"):
        text, folder = source.read_text(), source.parent.name
        found |= {f"{folder}.{name}" for name in named if re.search(rf"^def {name}\(", text, re.MULTILINE)}
        views = re.findall(r"^@app\.route\((.*)\)\ndef (\w+)\(", text, re.MULTILINE)
        found |= {f"{folder}.{view}" for options, view in views if re.search(r'"(POST|PUT|PATCH|DELETE)"', options)}
    return found


def test_every_use_case_and_every_handler_has_its_crash_points_or_none() -> None:
    files = {path.relative_to(USE_CASES).with_suffix("") for path in USE_CASES.rglob("*.py")}
    use_cases = {".".join(file.parts) for file in files if file.name != "__init__"}
    covered = set().union(*COVERS.values(), *COVERS_OF_SETTLEMENT.values())
    assert (use_cases | handlers()) - covered - WITHOUT_EFFECT == set()


def test_what_only_reads_leaves_nothing_but_a_count(
    api: Api, load_api: LoadApi, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbour = Neighbour(api)
    neighbour.sign_up()
    monkeypatch.setenv("OPERATOR_WALLETS", neighbour.account.address)
    for queue in ("LOCK_RESPONSES_DEAD_LETTERS", "TELEMETRY_DEAD_LETTERS"):
        monkeypatch.setenv(queue, boto3.client("sqs").create_queue(QueueName=queue)["QueueUrl"])
    placed = neighbour.place(side="buy", size_wh=400, price_micro=150_000, all_or_none=True)["id"]
    for name in ("schema_version", "openapi.json", "docs.html"):
        (tmp_path / name).write_text("{}" if name == "openapi.json" else "3")
    read = 0
    for source in FUNCTIONS.glob("*_api/app.py"):
        function = load_api(source.parent.name)
        function.module.SERVED = tmp_path  # type: ignore[attr-defined] # of the one that serves files
        for path, methods in function.module.app.routes.items():
            if "GET" in methods:
                fuse = Fuse()
                database = FusedDatabase(database_url, fuse, statements=False)
                occupy(function.module, database)
                answer = function.get(path.replace("{id}", str(placed)), token=neighbour.renew())
                database.close()
                if "/device/" in path:  # this neighbour has none
                    assert answer.status == 404, path
                else:
                    assert answer.status in {200, 503}, path  # there is no chain here, and health says so
                assert fuse.effects == ["commit"], path
                read += 1
    assert read > 10
