"""A node of the world as it is: it stands between the market and a real node, and plays the ways of providers by name.

`WAYS` has every way by its name; `FaultyNode` plays one, or several at once. `docs/nodes.md` lists them.
"""

from local_market.faulty_node import answers, chains, fees, heads, limits, lists, methods, pools, transport
from local_market.faulty_node.server import FaultyNode
from local_market.faulty_node.way import WAYS, Way

__all__ = ["WAYS", "FaultyNode", "Way"]

MODULES = (lists, limits, methods, fees, pools, heads, chains, answers, transport)
"""Each declares a family of ways."""
