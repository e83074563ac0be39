"""Start MiniStack with its IoT broker on this machine only, and with cold starts that cost little.

MiniStack binds the broker to every interface, and lets clients without a certificate in: on a café's network that
would open the market's topics to the room. And it unpacks function and layer, some 50 MB, for every worker that it
starts, which after each failure is another one: here the same archive is unpacked once, and every worker sees that copy
(none writes there). Runs under MiniStack's own interpreter.
"""

import asyncio
import hashlib
import runpy
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import Any

_create_server = asyncio.BaseEventLoop.create_server


async def _create_server_here(loop: Any, factory: Any, host: Any = None, *rest: Any, **named: Any) -> Any:  # noqa: ANN401
    """Listen on the loopback where every interface was meant."""
    if host == "0.0.0.0":  # noqa: S104
        host = "127.0.0.1"
    return await _create_server(loop, factory, host, *rest, **named)


_extractall = zipfile.ZipFile.extractall
_unpacking = threading.Lock()


def _extract_once(archive: zipfile.ZipFile, path: Any = None, members: Any = None, pwd: Any = None) -> None:  # noqa: ANN401
    """Put a link to the one copy where a worker's own was meant; the folder is there, and empty."""
    if path is None or members is not None or any(Path(path).iterdir()):
        _extractall(archive, path, members, pwd)
        return
    # Names, sizes and checksums say what is in it: reading all of it would cost more than all the rest.
    contents = repr([(entry.filename, entry.file_size, entry.CRC) for entry in archive.infolist()])
    content = hashlib.sha256(contents.encode()).hexdigest()
    copy = Path(tempfile.gettempdir()) / "unpacked" / content
    with _unpacking:
        if not copy.exists():
            unfinished = copy.with_suffix(".new")
            _extractall(archive, unfinished)
            unfinished.rename(copy)
    Path(path).rmdir()
    Path(path).symlink_to(copy)


asyncio.BaseEventLoop.create_server = _create_server_here  # type: ignore[method-assign,assignment]
zipfile.ZipFile.extractall = _extract_once  # type: ignore[method-assign,assignment]
runpy.run_module("ministack", run_name="__main__")
