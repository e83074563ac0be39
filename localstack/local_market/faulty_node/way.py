"""What a way of a node is: where it may take a hand in an exchange, and the names of all ways."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeAlias, TypeVar

Json: TypeAlias = Any
Ask = Callable[..., Json]
"""(method, *parameters) -> the real node's answer: an object with `result` or `error`."""
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
SERVER_ERROR: Final = -32000


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a request."""

    method: str
    params: list[Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request over HTTP. `headers` are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer over HTTP. `ends`: how its end is told; `closes`: the connection is closed, which no header says."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    body: bytes
    ends: Literal["length", "chunks", "close"] = "length"
    closes: bool = False


class Way:
    """A node without a fault. Each way overrides where it differs; several wrap one another."""

    family: ClassVar[str]
    name: ClassVar[str]
    anytime: ClassVar[bool] = True
    """Whether it can begin and end in the middle of trading."""
    anvil: ClassVar[tuple[str, ...]] = ()
    """Arguments for Anvil, where it is a way of the chain's."""
    block_gas: ClassVar[int | None] = None
    """Gas of a block, once the contracts are deployed; None for Anvil's own."""
    makes_empty_blocks: ClassVar[bool] = True
    finality_blocks: ClassVar[int | None] = None
    """The parameter `FinalityBlocks` under which the way is met; None for any."""
    trades: ClassVar[int] = 2
    """How many trades at once it takes to meet it."""
    blocks_before: ClassVar[int] = 1
    """Blocks since the trade that another transaction paid."""
    sweeps_before: ClassVar[int] = 2
    """Sweeps before the first block is made."""

    def __init__(self, ask: Ask, chance: random.Random) -> None:
        self.ask = ask
        self.chance = chance
        self.remembers = 0  # what it counts is each way's own

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        """Answer a request over HTTP; None drops the connection."""
        return go_on(request)

    def message(self, message: Json, go_on: Callable[[Json], Json]) -> Json:
        """Answer a call, or a list of calls, as JSON-RPC spells them."""
        return go_on(message)

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        """Answer one call: an object with `result` or `error`."""
        return go_on(call)


WAYS: Final[dict[str, type[Way]]] = {}
W = TypeVar("W", bound=type[Way])


def way(cls: W) -> W:
    """Enter a way under its name: the class's in snake case. Its family is its module's."""
    cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[a-z])(?=[0-9])", "_", cls.__name__).lower()
    cls.family = cls.__module__.rpartition(".")[2]
    WAYS[cls.name] = cls
    return cls


def error(code: Json, message: str, **more: Json) -> Json:
    """The answer of a node that refuses a call."""
    return {"error": {"code": code, "message": message, **more}}


def said(answer: Json, *, status: int = 200) -> Reply:
    """A reply with a JSON body."""
    return Reply(status=status, body=json.dumps(answer).encode())


def page(status: int, title: str) -> Reply:
    """A proxy's page for people."""
    body = f"<html><head><title>{title}</title></head><body><h1>{title}</h1><hr>nginx</body></html>"
    return Reply(status=status, headers={"Content-Type": "text/html"}, body=body.encode())


def number(quantity: Json) -> int:
    """A quantity as the real node spells it."""
    return int(quantity, 16)
