"""One request of API Gateway, and where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Any, Final, Self
from uuid import UUID

from energy_market.domain import tokens
from energy_market.domain.errors import Unauthorized

IPV4_AS_IPV6: Final = bytes(10) + b"\xff\xff"
"""Prefix of an IPv6 address that spells an IPv4 one (RFC 4291, 2.5.5.2)."""
UNKNOWN_SOURCE: Final = "unknown"
"""Where a request comes from that names no address; all such requests have one allowance together."""


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request and what became known while serving it."""

    method: str
    path: str
    source_ip: str
    request_id: str
    event: Mapping[str, Any]
    user_id: UUID | None = None
    caller: tokens.Caller | Unauthorized | None = None  # or why who asks is not known; None before it was looked at
    headers: dict[str, str] = field(default_factory=dict)  # lower-case names

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Self:
        """The source is what API Gateway saw: a header that the client sends could name anyone.

        On the local stack that header (X-Forwarded-For) is what the gateway "saw". Whatever it holds, it is a source.
        """
        context = event["requestContext"]
        return cls(
            method=context["httpMethod"],
            # Half a character (a lone surrogate) cannot be written into the log.
            path=(event.get("path") or context["resourcePath"]).encode(errors="replace").decode(),
            source_ip=address_of((context.get("identity") or {}).get("sourceIp")) or UNKNOWN_SOURCE,
            request_id=context["requestId"],
            event=event,
            headers={name.lower(): value for name, value in (event.get("headers") or {}).items()},
        )


def address_of(text: object) -> str | None:
    """The IP address in what is said of a source, or None: the first of a list, without port, brackets or zone."""
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
    """Who a source is: an IPv4 address, or the 64 bits of an IPv6 address that one subscriber has all the others of."""
    if ":" not in source_ip:
        return source_ip
    address = inet_pton(AF_INET6, source_ip)
    if address.startswith(IPV4_AS_IPV6):
        return inet_ntop(AF_INET, address[len(IPV4_AS_IPV6) :])
    return f"{inet_ntop(AF_INET6, address[:8] + bytes(8))}/64"
