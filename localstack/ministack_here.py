"""Start MiniStack with its IoT broker on this machine only.

MiniStack binds the broker to every interface, and lets clients without a certificate in: on a café's network that
would open the market's topics to the room. Runs under MiniStack's own interpreter.
"""

import asyncio
import runpy
from typing import Any

_create_server = asyncio.BaseEventLoop.create_server


async def _create_server_here(loop: Any, factory: Any, host: Any = None, *rest: Any, **named: Any) -> Any:  # noqa: ANN401
    """Listen on the loopback where every interface was meant."""
    if host == "0.0.0.0":  # noqa: S104
        host = "127.0.0.1"
    return await _create_server(loop, factory, host, *rest, **named)


asyncio.BaseEventLoop.create_server = _create_server_here  # type: ignore[method-assign,assignment]
runpy.run_module("ministack", run_name="__main__")
