"""The schedule of `make chaos`, its running, and the links that fail."""

import contextlib
import json
import random
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest

from local_market.chaos.hindrances import NotNow
from local_market.chaos.kinds import FIRST, KINDS, Kind
from local_market.chaos.links import NEVER_JSON, Link, Links
from local_market.chaos.schedule import Fault, Faults, schedule
from local_market.chaos.world import ChaosWorld


def test_the_same_seed_and_duration_give_the_same_schedule() -> None:
    assert schedule(1, 120) == schedule(1, 120)
    assert len({schedule(seed, 120) for seed in range(1, 21)}) == 20


def test_faults_come_in_order_and_none_lasts_beyond_the_end() -> None:
    for seed in range(50):
        faults = schedule(seed, 120)
        assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
        assert all(fault.at_s > 0 and fault.at_s + fault.lasts_s <= 120.02 for fault in faults)
        assert {fault.kind for fault in faults} <= KINDS.keys()


def test_a_run_of_two_minutes_has_nearly_every_kind_and_a_short_one_the_main_ones() -> None:
    for seed in range(50):
        assert len({fault.kind for fault in schedule(seed, 120)}) >= 0.8 * len(KINDS)
        assert {fault.kind for fault in schedule(seed, 45)} >= FIRST


def test_some_kinds_happen_once_at_most() -> None:
    for name in (name for name, kind in KINDS.items() if kind.once):
        assert all(sum(fault.kind == name for fault in schedule(seed, 600)) <= 1 for seed in range(20))


@contextlib.contextmanager
def _good(_world: ChaosWorld, _chance: random.Random) -> Iterator[None]:
    yield


def _not_now(_world: ChaosWorld, _chance: random.Random) -> contextlib.AbstractContextManager[None]:
    raise NotNow("it is away")


@contextlib.contextmanager
def _for_good(_world: ChaosWorld, _chance: random.Random) -> Iterator[None]:
    yield
    raise OSError("it stays away")


def test_faults_happen_are_counted_and_what_cannot_be_put_right_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, inject in {"good": _good, "not_now": _not_now, "for_good": _for_good}.items():
        monkeypatch.setitem(KINDS, name, Kind(inject=inject, lasts_s=(0, 0)))
    names = ("good", "not_now", "for_good", "good")
    said: list[str] = []
    faults = Faults(
        tuple(Fault(at_s=0.05, kind=name, lasts_s=0, chance=1) for name in names),
        cast("ChaosWorld", None),  # none of them looks at it
        say=said.append,
    )
    faults.start()
    time.sleep(0.5)
    faults.end(timeout_s=5)
    assert faults.counts == {"good": 2, "for_good": 1}
    assert len(faults.trouble) == 1
    assert "for_good" in faults.trouble[0]
    assert "it stays away" in faults.trouble[0]
    assert [sentence for sentence in said if "not_now" in sentence] == ["+0 s not_now: not possible now: it is away"]


def test_when_the_run_ends_faults_end_with_it_and_later_ones_do_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "good", Kind(inject=_good, lasts_s=(60, 60)))
    faults = Faults(
        (Fault(at_s=0, kind="good", lasts_s=60, chance=1), Fault(at_s=60, kind="good", lasts_s=60, chance=1)),
        cast("ChaosWorld", None),
        say=lambda _: None,
    )
    faults.start()
    time.sleep(0.3)
    began = time.monotonic()
    faults.end(timeout_s=5)
    assert (faults.counts, faults.trouble) == ({"good": 1}, [])
    assert time.monotonic() - began < 2


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the link was cut
            while received := self.request.recv(65_536):
                self.request.sendall(received)


@pytest.fixture
def link() -> Iterator[Link]:
    """A link to a server that sends back what it gets."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        links = Links()
        yield links.add(server.server_address[1], chance=random.Random(1))
        links.close()
        server.shutdown()
        thread.join()


def _connect(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=5)


def _echo(connection: socket.socket, words: bytes) -> bytes:
    """What comes back of these words, until as much has come or the connection is dropped."""
    connection.sendall(words)
    answer = b""
    while len(answer) < len(words):
        received = connection.recv(65_536)
        if not received:
            break
        answer += received
    return answer


def test_a_link_carries_what_it_is_given(link: Link) -> None:
    with _connect(link) as connection:
        words = bytes(range(256)) * 4_000
        threading.Thread(target=connection.sendall, args=(words,)).start()
        answer = b""
        while len(answer) < len(words):
            answer += connection.recv(65_536)
        assert answer == words


def test_a_cut_drops_what_is_connected_and_refuses_what_comes_until_it_is_mended(link: Link) -> None:
    with _connect(link) as connection:
        assert _echo(connection, b"before") == b"before"
        with link.trouble("cut"):
            assert _is_dropped(connection)
            with _connect(link) as another:
                assert _is_dropped(another)
        with _connect(link) as third:
            assert _echo(third, b"after") == b"after"


def _is_dropped(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_torn_message_arrives_by_half(link: Link) -> None:
    with _connect(link) as connection:
        assert _echo(connection, b"before") == b"before"
        with link.trouble("torn"):
            time.sleep(0.1)
            connection.sendall(b"0123456789")
            assert _is_dropped(connection)


def test_a_silent_link_holds_everything_back_and_loses_nothing(link: Link) -> None:
    with _connect(link) as connection:
        assert _echo(connection, b"before") == b"before"
        with link.trouble("silent"):
            time.sleep(0.1)
            connection.sendall(b"meanwhile")
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.recv(1)
        connection.settimeout(5)
        assert connection.recv(100) == b"meanwhile"


def test_a_slow_link_takes_its_time(link: Link) -> None:
    with _connect(link) as connection, link.slow(0.2):
        began = time.monotonic()
        assert _echo(connection, b"words") == b"words"
        assert time.monotonic() - began >= 0.4


def test_garbled_json_is_no_json(link: Link) -> None:
    text = json.dumps({"jsonrpc": "2.0", "result": "0x" + "ab" * 40}).encode()
    with _connect(link) as connection, link.trouble("garbled"):
        time.sleep(0.1)
        answers = [_echo(connection, text) for _ in range(20)]
    garbled = [answer for answer in answers if answer != text]
    assert garbled
    assert all(len(answer) == len(text) and NEVER_JSON[:1] in answer for answer in garbled)
    for answer in garbled:
        with pytest.raises(ValueError, match="utf-8"):
            json.loads(answer)
