"""A broker (MQTT 5 over mutual TLS) that has the ways of brokers, each by its name."""

import contextlib
import socket
import socketserver
import ssl
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from tests.support.devices.certificate_authority import CertificateAuthority

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ, PINGRESP, DISCONNECT = 1, 2, 3, 4, 8, 9, 12, 13, 14
_FOUR_BYTES: Final = frozenset({0x11, 0x27})
_TWO_BYTES: Final = frozenset({0x13, 0x21, 0x22})
_RECEIVE_MAXIMUM: Final = 0x21


@dataclass(kw_only=True)
class Ways:
    """What this broker does otherwise. Lists are used up, one entry an occasion."""

    properties: dict[int, int] = field(default_factory=dict)
    """Properties of each CONNACK: its limits."""
    keeps_receive_maximum: bool = False
    forgets_sessions: bool = False
    copies: int = 1
    """How often each message is sent; all but the first with DUP."""
    again_after_ack: bool = False
    """Sends each message once more when it has been acknowledged, as a new one."""
    one_more_for_repeated_subscribe: bool = False
    connack_codes: list[int] = field(default_factory=list)
    suback_codes: list[int] = field(default_factory=list)
    puback_codes: list[int | None] = field(default_factory=list)
    """0: it has the message. Another: it has not. None: it has, and does not say so."""
    ends_after_subscribe: list[int] = field(default_factory=list)
    """DISCONNECT with this reason code."""
    ends_after_publish: list[int] = field(default_factory=list)
    hangs_up_before_puback: int = 0
    byte_by_byte: bool = False
    holds_back_s: float = 0.0
    """Seconds for which each message lies before it is sent."""
    newest_first: bool = False


@dataclass
class _Session:
    subscribed: dict[str, int] = field(default_factory=dict)
    waiting: deque[tuple[str, bytes]] = field(default_factory=deque)
    unacknowledged: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    next_id: int = 0


class ScriptedBroker:
    """One listener; what devices publish is in `published`."""

    def __init__(self, authority: CertificateAuthority, ways: Ways) -> None:
        self.ways = ways
        self.published: list[tuple[str, bytes]] = []
        self.most_in_flight = 0
        self._sessions: dict[str, _Session] = {}
        self._connections: dict[str, _Connection] = {}
        self._guard = threading.RLock()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.server_files)
        context.load_verify_locations(authority.ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
        self._server = _Server(("127.0.0.1", 0), _Connection)
        self._server.context, self._server.broker = context, self
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        for connection in list(self._connections.values()):
            connection.hang_up()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def send(self, client_id: str, topic: str, payload: bytes) -> None:
        """As the market does: to whoever has subscribed, now or when he is back."""
        if self.ways.holds_back_s:
            timer = threading.Timer(self.ways.holds_back_s, self._queue, (client_id, topic, payload))
            timer.daemon = True
            timer.start()
        else:
            self._queue(client_id, topic, payload)

    def _queue(self, client_id: str, topic: str, payload: bytes) -> None:
        with self._guard:
            session = self._sessions.get(client_id)
            if session is None or topic not in session.subscribed:
                return
            for _ in range(session.subscribed[topic]):
                session.waiting.append((topic, payload))
            self._pump(client_id)

    def _pump(self, client_id: str) -> None:
        connection, session = self._connections.get(client_id), self._sessions[client_id]
        if connection is None:
            return
        room = connection.receive_maximum if self.ways.keeps_receive_maximum else 65_535
        while session.waiting and len(session.unacknowledged) < room:
            message = session.waiting.pop() if self.ways.newest_first else session.waiting.popleft()
            session.next_id = session.next_id % 65_535 + 1
            session.unacknowledged[session.next_id] = message
            self.most_in_flight = max(self.most_in_flight, len(session.unacknowledged))
            for copy in range(self.ways.copies):
                connection.send_publish(session.next_id, *message, dup=copy > 0)

    # Called by the connections' threads.

    def connected(self, connection: "_Connection") -> bool:
        """Take a connection; False if it is refused."""
        with self._guard:
            if self.ways.connack_codes:
                connection.send(CONNACK, bytes([0, self.ways.connack_codes.pop(0), 0]))
                return False
            known = connection.client_id in self._sessions and not self.ways.forgets_sessions
            if not known:
                self._sessions[connection.client_id] = _Session()
            before = self._connections.get(connection.client_id)
            if before is not None:
                before.send(DISCONNECT, bytes([0x8E, 0]))
                before.hang_up()
            self._connections[connection.client_id] = connection
            properties = b"".join(
                bytes([name]) + value.to_bytes(4 if name in _FOUR_BYTES else 2 if name in _TWO_BYTES else 1, "big")
                for name, value in self.ways.properties.items()
            )
            connection.send(CONNACK, bytes([int(known), 0, len(properties)]) + properties)
            for packet_id, message in self._sessions[connection.client_id].unacknowledged.items():
                connection.send_publish(packet_id, *message, dup=True)
            self._pump(connection.client_id)
        return True

    def subscribed(self, connection: "_Connection", packet_id: bytes, filters: list[str]) -> None:
        with self._guard:
            session = self._sessions[connection.client_id]
            codes = [self.ways.suback_codes.pop(0) if self.ways.suback_codes else 1 for _ in filters]
            for topic, code in zip(filters, codes, strict=True):
                if code <= 2:
                    more = session.subscribed.get(topic, 0) if self.ways.one_more_for_repeated_subscribe else 0
                    session.subscribed[topic] = 1 + more
            connection.send(SUBACK, packet_id + b"\0" + bytes(codes))
            if self.ways.ends_after_subscribe:
                connection.send(DISCONNECT, bytes([self.ways.ends_after_subscribe.pop(0), 0]))
                connection.hang_up()

    def heard(self, connection: "_Connection", topic: str, packet_id: bytes, payload: bytes) -> None:
        with self._guard:
            if self.ways.hangs_up_before_puback:
                self.ways.hangs_up_before_puback -= 1
                connection.hang_up()
                return
            code = self.ways.puback_codes.pop(0) if self.ways.puback_codes else 0
            if not code:
                self.published.append((topic, payload))
            if packet_id and code is not None:
                connection.send(PUBACK, packet_id + (bytes([code, 0]) if code else b""))
            if self.ways.ends_after_publish:
                connection.send(DISCONNECT, bytes([self.ways.ends_after_publish.pop(0), 0]))
                connection.hang_up()

    def acknowledged(self, connection: "_Connection", packet_id: int) -> None:
        with self._guard:
            session = self._sessions[connection.client_id]
            message = session.unacknowledged.pop(packet_id, None)
            if message is not None and self.ways.again_after_ack and not message[1].endswith(b" "):
                session.waiting.append((message[0], message[1] + b" "))
            self._pump(connection.client_id)

    def gone(self, connection: "_Connection") -> None:
        with self._guard:
            if self._connections.get(connection.client_id) is connection:
                del self._connections[connection.client_id]


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    context: ssl.SSLContext
    broker: ScriptedBroker


class _Connection(socketserver.BaseRequestHandler):
    """One device's connection."""

    server: _Server
    client_id = ""
    receive_maximum = 65_535

    def handle(self) -> None:
        broker = self.server.broker
        with contextlib.suppress(OSError, EOFError):
            self._line = self.server.context.wrap_socket(self.request, server_side=True)
            self._reading = self._line.makefile("rb")
            try:
                while True:
                    self._packet(broker)
            finally:
                broker.gone(self)
                self.hang_up()

    def _packet(self, broker: ScriptedBroker) -> None:
        first = self._bytes(1)[0]
        body = self._bytes(self._length())
        match first >> 4:
            case n if n == CONNECT:
                properties_at, length = 10, body[10]
                properties = body[properties_at + 1 : properties_at + 1 + length]
                self.receive_maximum = _two_bytes(properties, _RECEIVE_MAXIMUM) or 65_535
                self.client_id = _text(body, properties_at + 1 + length)[0]
                if not broker.connected(self):
                    raise EOFError
            case n if n == SUBSCRIBE:
                filters, at = [], 3 + body[2]
                while at < len(body):
                    topic, at = _text(body, at)
                    filters.append(topic)
                    at += 1
                broker.subscribed(self, body[:2], filters)
            case n if n == PUBLISH:
                topic, at = _text(body, 0)
                packet_id = body[at : at + 2] if first & 6 else b""
                at += len(packet_id)
                broker.heard(self, topic, packet_id, body[at + 1 + body[at] :])
            case n if n == PUBACK:
                broker.acknowledged(self, int.from_bytes(body[:2], "big"))
            case n if n == PINGREQ:
                self.send(PINGRESP, b"")
            case n if n == DISCONNECT:
                raise EOFError

    def _bytes(self, number: int) -> bytes:
        read = self._reading.read(number)
        if len(read) < number:
            raise EOFError
        return read

    def _length(self) -> int:
        length = shift = 0
        while True:
            (byte,) = self._bytes(1)
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                return length
            shift += 7

    def send(self, kind: int, body: bytes, *, flags: int = 0) -> None:
        length, left = b"", len(body)
        while True:
            left, low = divmod(left, 128)
            length += bytes([low | (0x80 if left else 0)])
            if not left:
                break
        packet = bytes([kind << 4 | flags]) + length + body
        with contextlib.suppress(OSError):
            if self.server.broker.ways.byte_by_byte:
                for byte in packet:
                    self._line.sendall(bytes([byte]))
            else:
                self._line.sendall(packet)

    def send_publish(self, packet_id: int, topic: str, payload: bytes, *, dup: bool) -> None:
        name = topic.encode()
        body = len(name).to_bytes(2, "big") + name + packet_id.to_bytes(2, "big") + b"\0" + payload
        self.send(PUBLISH, body, flags=2 | (8 if dup else 0))

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._line.close()


def _text(body: bytes, at: int) -> tuple[str, int]:
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    return body[at + 2 : end].decode(), end


def _two_bytes(properties: bytes, name: int) -> int | None:
    """A property of two bytes, among others that CONNECT has."""
    at = 0
    while at < len(properties):
        size = 4 if properties[at] in _FOUR_BYTES else 2 if properties[at] in _TWO_BYTES else 1
        if properties[at] == name:
            return int.from_bytes(properties[at + 1 : at + 1 + size], "big")
        at += 1 + size
    return None
