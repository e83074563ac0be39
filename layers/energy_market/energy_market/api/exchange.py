"""One request of API Gateway, and its source."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Any, Final, Self
from uuid import UUID

from energy_market.domain import tokens
from energy_market.domain.errors import Unauthorized

IPV4_AS_IPV6: Final = bytes(10) + b"\xff\xff"
"""Prefix of an IPv6 address that contains an IPv4 address (RFC 4291, 2.5.5.2)."""
UNKNOWN_SOURCE: Final = "unknown"
"""Source of all requests without an address, which share one limit."""


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request, and what was learned while serving it."""

    method: str
    path: str
    source_ip: str
    request_id: str
    event: Mapping[str, Any]
    user_id: UUID | None = None
    caller: tokens.Caller | Unauthorized | None = None  # or why they are unknown; None before the check
    headers: dict[str, str] = field(default_factory=dict)  # lower-case names

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Self:
        """Read an event. The source is the address that API Gateway saw, since a client's header could name any.

        On the local stack, the gateway takes it from that header (X-Forwarded-For). Any content of the header is used
        as the source.
        """
        context = event["requestContext"]
        return cls(
            method=context["httpMethod"],
            # Half a character (a lone surrogate) cannot be written to the log.
            path=(event.get("path") or context["resourcePath"]).encode(errors="replace").decode(),
            source_ip=address_of((context.get("identity") or {}).get("sourceIp")) or UNKNOWN_SOURCE,
            request_id=context["requestId"],
            event=event,
            headers={name.lower(): value for name, value in (event.get("headers") or {}).items()},
        )


def address_of(text: object) -> str | None:
    """The IP address in a description of a source, or None: the first of a list, without port, brackets or zone."""
    if not isinstance(text, str):
        return None
    first = text.partition(",")[0].strip()
    if first.startswith("["):
        first = first[1:].partition("]")[0]
    elif first.count(":") == 1:
        first = first.partition(":")[0]
    family = AF_INET6 if ":" in first else AF_INET
    try:
        return inet_ntop(family, inet_pton(family, first.partition("%")[0]))
    except (OSError, ValueError):  # no address, or not even a text that can be encoded
        return None


def network_of(source_ip: str) -> str:
    """The network of a source: an IPv4 address, or the first 64 bits of an IPv6 address, which one subscriber owns."""
    if ":" not in source_ip:
        return source_ip
    address = inet_pton(AF_INET6, source_ip)
    if address.startswith(IPV4_AS_IPV6):
        return inet_ntop(AF_INET, address[len(IPV4_AS_IPV6) :])
    return f"{inet_ntop(AF_INET6, address[:8] + bytes(8))}/64"
