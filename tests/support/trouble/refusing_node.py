"""A node that lies or refuses as a test tells it."""

import time
from collections.abc import Callable

from local_market.faulty_node import FaultyNode, Way
from local_market.faulty_node.way import Call, Json, Reply, Request

Lie = Callable[[str, Json], Json]
"""(method, the node's answer to one call) -> what is said instead."""
Refusal = Callable[[Json], Json]
"""A call, as JSON -> the error that it is refused with, or None. A refused call never reaches the node."""


class Node(FaultyNode):
    """Hands requests on to a node; what comes back may be bent, late or lost, as it is set."""

    def __init__(self, rpc_url: str) -> None:
        super().__init__(rpc_url)
        self.recover()
        node = self

        class AsItIsSet(Way):
            def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
                time.sleep(node.delay_s)
                if node.is_away:
                    return None
                reply = go_on(request)
                return None if any(method.encode() in request.body for method in node.loses) else reply

            def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
                refusal = None if node.refuse is None else node.refuse({"method": call.method, "params": call.params})
                if refusal is not None:
                    return {"error": refusal}
                answer = go_on(call)
                return answer if node.lie is None else node.lie(call.method, answer)

        AsItIsSet.name = "as_it_is_set"
        self.play(AsItIsSet)

    def recover(self) -> None:
        self.lie: Lie | None = None
        self.refuse: Refusal | None = None
        self.loses: set[str] = set()  # methods whose answers get lost after the node has received them
        self.is_away = False
        self.delay_s = 0.0
