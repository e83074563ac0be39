"""A wire to PostgreSQL that can be disturbed at the k-th request: cut, silent, or carrying what the server refuses.

It knows as much of the protocol (version 3) as it takes to tell one request and its answer from the next: a client that
does not pipeline sends up to a Query or a Sync, and waits until the server says that it is ready. The launcher's links
(`local_market.chaos.links`) are the other TCP proxy: they carry any protocol, and so cannot count its requests.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

Kind = Literal[
    "cut before", "cut after", "silent before", "silent after",
    "terminated", "cancelled", "serialization", "deadlock", "disk full",
]  # fmt: skip
ERRORS: Final[dict[Kind, str]] = {
    "cancelled": "57014",
    "serialization": "40001",
    "deadlock": "40P01",
    "disk full": "53100",
}
KINDS: Final[tuple[Kind, ...]] = ("cut before", "cut after", "terminated", *ERRORS)
SILENCES: Final[tuple[Kind, ...]] = ("silent before", "silent after")  # each takes as long as the client waits

DOOM: Final = """
CREATE TABLE IF NOT EXISTS doom (code text);
CREATE OR REPLACE FUNCTION doom() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'doomed' USING ERRCODE = NEW.code; END $$;
DROP TRIGGER IF EXISTS doom ON doom;
CREATE CONSTRAINT TRIGGER doom AFTER INSERT ON doom DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION doom();
"""
"""What the database needs so that a COMMIT can fail: a row here dooms its transaction."""

_ANSWERED_BY_CLIENT: Final = {3, 5, 10, 11}  # passwords and SASL, of the server's requests to authenticate


class _Cut(Exception):
    """One of the two ends is gone, or is to be."""


@dataclass(slots=True)
class Request:
    """What a client asked: a statement, and whether it was the one that was disturbed."""

    text: str
    disturbed: bool = False


class Proxy:
    """Stands between clients and the server of `server_url`; clients use `url`."""

    def __init__(self, server_url: str) -> None:
        self._server = urlsplit(server_url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = (
            f"{self._server.scheme}://{self._server.username}:{self._server.password}@127.0.0.1:{port}"
            f"{self._server.path}?sslmode=disable&gssencmode=disable"
        )
        self.requests: list[Request] = []
        self.meanwhile: Callable[[], object] = lambda: None  # what happens to the server before the wire is cut
        self._kind: Kind | None = None
        self._at = 0
        self._sockets: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def disturb(self, kind: Kind | None, at: int) -> None:
        """From now on count requests from 0, and disturb the one of this number."""
        self.requests, self._kind, self._at = [], kind, at

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for open_socket in list(self._sockets):
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(_Cut, OSError), client:
            server = socket.create_connection((self._server.hostname, self._server.port))
            with server:
                self._sockets |= {client, server}
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._begin(client, server)
                prepared: dict[bytes, str] = {}
                while True:
                    self._exchange(client, server, prepared)

    def _begin(self, client: socket.socket, server: socket.socket) -> None:
        (length,) = struct.unpack("!I", head := _exactly(client, 4))
        server.sendall(head + _exactly(client, length - 4))
        while True:
            kind, message = _message(server)
            client.sendall(message)
            if kind == b"Z":
                return
            if kind == b"R" and struct.unpack("!I", message[5:9])[0] in _ANSWERED_BY_CLIENT:
                server.sendall(_message(client)[1])

    def _exchange(self, client: socket.socket, server: socket.socket, prepared: dict[bytes, str]) -> None:
        asked, text = _request(client, prepared)
        number = len(self.requests)
        if text:
            self.requests.append(Request(text))
        if not text or self._kind is None or number != self._at:
            server.sendall(asked)
            client.sendall(_answer(server))
            return
        self.requests[number].disturbed = True
        match self._kind:
            case "cut before":
                self.meanwhile()
                raise _Cut
            case "cut after":
                server.sendall(asked)
                _answer(server)
                self.meanwhile()
                raise _Cut
            case "silent before" | "silent after":
                if self._kind == "silent after":
                    server.sendall(asked)
                    _answer(server)
                client.recv(1)  # until it gives up; its end of the wire is all that it can close
                raise _Cut
            case "terminated":
                server.sendall(_query("SELECT pg_terminate_backend(pg_backend_pid())"))
                for message in _messages(server):
                    client.sendall(message)
                raise _Cut
            case kind if text == "COMMIT":
                server.sendall(_query(f"INSERT INTO doom VALUES ('{ERRORS[kind]}')"))
                _answer(server)
                server.sendall(asked)
                client.sendall(_answer(server))
            case kind:
                server.sendall(
                    _query(f"DO $$ BEGIN RAISE EXCEPTION 'disturbed' USING ERRCODE = '{ERRORS[kind]}'; END $$")
                )
                client.sendall(_answer(server))


def _request(client: socket.socket, prepared: dict[bytes, str]) -> tuple[bytes, str]:
    """All that a client sends before it waits, and the statement in it; '' if it only prepares one for later."""
    asked, text = b"", ""
    while True:
        kind, message = _message(client)
        asked += message
        match kind:
            case b"Q":
                return asked, message[5:].rstrip(b"\0").decode()
            case b"P":
                name, statement, _ = message[5:].split(b"\0", 2)
                prepared[name] = statement.decode()
            case b"B":
                text = prepared[message[5:].split(b"\0", 2)[1]]
            case b"S":
                return asked, text
            case b"X":
                raise _Cut


def _answer(server: socket.socket) -> bytes:
    answer = b""
    for message in _messages(server):
        answer += message
        if message[:1] == b"Z":
            return answer
    raise _Cut


def _messages(server: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            yield _message(server)[1]
        except _Cut:
            return


def _message(end: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(end, 5)
    (length,) = struct.unpack("!I", head[1:])
    return head[:1], head + _exactly(end, length - 4)


def _exactly(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = end.recv(size - len(data))
        if not part:
            raise _Cut
        data += part
    return data


def _query(statement: str) -> bytes:
    text = statement.encode() + b"\0"
    return b"Q" + struct.pack("!I", len(text) + 4) + text
