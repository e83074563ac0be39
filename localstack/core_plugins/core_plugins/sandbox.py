"""One execution environment of a function: its process, and the Lambda runtime API that the process asks for events.

The API is AWS's (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html), the process AWS's own runtime client
for Python, `awslambdaric`. Everything is on the loopback. Standard library only.
"""

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Final

LARGEST_ANSWER: Final = 6 * 1024 * 1024 + 100  # bytes, of a function that was called synchronously
INIT_TIMEOUT_S: Final = 30.0  # AWS gives 10 s; a busy machine that starts all functions at once needs longer


class InitError(Exception):
    """The function could not be loaded; `payload` is the error as the caller gets it (JSON)."""

    def __init__(self, payload: bytes) -> None:
        super().__init__(payload.decode(errors="replace"))
        self.payload = payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a function is called with: a JSON document, and by whose words."""

    request_id: str
    function_arn: str
    payload: bytes
    trace_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of an event: a JSON document, the function's or an error's, and what was logged."""

    payload: bytes
    is_error: bool
    logs: str


class Sandbox:
    """A function's process, which handles one event at a time until it is stopped, dies or takes too long."""

    def __init__(
        self,
        *,
        python: Path,
        handler: str,
        code: Path,
        layers: Sequence[Path] = (),
        environment: Mapping[str, str],
        timeout_s: float,
        memory_mb: int = 128,
    ) -> None:
        """Take what it runs; nothing is started yet. `environment` is all that the function sees of this machine's."""
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._command = [str(python), "-m", "awslambdaric", handler]
        self._code = code
        # The process's folder comes first on its path, as /var/task does on AWS; a layer's `python` folder after it.
        self._environment = {
            "PATH": os.defpath,
            **environment,
            "LAMBDA_TASK_ROOT": str(code),
            "PYTHONPATH": os.pathsep.join(str(layer / "python") for layer in layers),
        }
        self._life: _Life | None = None

    def start(self) -> None:
        """Start the process; return once it has loaded the handler and asks for events. Raises `InitError`."""
        self.stop()
        life = _Life(self._command, folder=self._code, environment=self._environment)
        self._life = life
        try:
            life.ready.result(INIT_TIMEOUT_S)
        except NoAnswer:
            life.end()
            message = f"Initialisation took longer than {INIT_TIMEOUT_S:.0f} s"
            raise InitError(_error("Sandbox.Timedout", message)) from None
        except InitError:
            life.end()
            raise

    def invoke(self, event: Event) -> Answer:
        """Let the function handle an event, in a new process if it lost its own. Raises `InitError`."""
        if self._life is None or not self._life.is_running():
            self.start()
        life = self._life
        if life is None:
            raise AssertionError
        began = time.monotonic()
        answered: Future[tuple[bytes, bool]] = life.give(event, deadline_ms=int((time.time() + self._timeout_s) * 1000))
        try:
            payload, is_error = answered.result(self._timeout_s)
        except NoAnswer:
            life.end()
            message = f"RequestId: {event.request_id} Error: Task timed out after {self._timeout_s:.2f} seconds"
            payload, is_error = _error("Sandbox.Timedout", message), True
        if len(payload) > LARGEST_ANSWER:
            message = f"Response payload size exceeded maximum allowed payload size ({LARGEST_ANSWER} bytes)."
            payload, is_error = _error("Function.ResponseSizeTooLarge", message), True
        took_ms = (time.monotonic() - began) * 1000
        said = life.read_log()
        lines = [
            f"START RequestId: {event.request_id} Version: $LATEST\n",
            said if said.endswith("\n") or not said else f"{said}\n",
            f"{json.loads(payload)['errorMessage']}\n" if is_error and not life.is_running() else "",
            f"END RequestId: {event.request_id}\n",
            f"REPORT RequestId: {event.request_id}\tDuration: {took_ms:.2f} ms\tMemory Size: {self._memory_mb} MB\n",
        ]
        return Answer(payload=payload, is_error=is_error, logs="".join(lines))

    def stop(self) -> None:
        """Stop the process with all that it started; what it is handling is answered with an error."""
        if self._life is not None:
            self._life.close()

    def read_log(self) -> str:
        """What the process has written since it was last asked."""
        return "" if self._life is None else self._life.read_log()


class _Life:
    """A process from its start to its end, with the API that serves it alone."""

    def __init__(self, command: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> None:
        self.ready: Future[None] = Future()
        self._events: queue.Queue[tuple[Event, int] | None] = queue.Queue()
        self._current: tuple[str, Future[tuple[bytes, bool]]] | None = None
        self._lock = threading.Lock()
        # A file and not a pipe: what was written before an answer is in it when the answer comes.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the life
        self._read_to = 0
        self._api = _Server(self)
        threading.Thread(target=self._api.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._api.server_address[1]}"},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            # A group of its own, to be ended as one, in the session of who started us, to be found with it.
            process_group=0,
        )
        threading.Thread(target=self._watch, daemon=True).start()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def give(self, event: Event, *, deadline_ms: int) -> "Future[tuple[bytes, bool]]":
        """Hand the process an event; the future has the answer, and whether it is an error."""
        answered: Future[tuple[bytes, bool]] = Future()
        with self._lock:
            if self.is_running():
                self._current = (event.request_id, answered)
                self._events.put((event, deadline_ms))
            else:
                answered.set_result((self._exit_error(event.request_id), True))
        return answered

    def next_event(self) -> tuple[Event, int] | None:
        """Wait for the next event and its deadline (milliseconds since the epoch); None when there will be none."""
        if not self.ready.done():
            self.ready.set_result(None)
        return self._events.get()

    def answered(self, request_id: str, payload: bytes, *, is_error: bool) -> bool:
        """Take the answer to an event; False if nobody waits for it any more."""
        with self._lock:
            if self._current is None or self._current[0] != request_id:
                return False
            future, self._current = self._current[1], None
        future.set_result((payload, is_error))
        return True

    def failed_to_load(self, payload: bytes) -> None:
        """Take the error of a handler that could not be loaded."""
        if not self.ready.done():
            self.ready.set_exception(InitError(payload))

    def read_log(self) -> str:
        """What the process has written since it was last asked."""
        if self._log.closed:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        # Not by seeking: the process would go on writing where we read.
        said = os.pread(self._log.fileno(), size - self._read_to, self._read_to)
        self._read_to += len(said)
        return said.decode(errors="replace")

    def end(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End the process; its log is not to be read any more."""
        self.end()
        self._log.close()

    def _watch(self) -> None:
        """Answer what the process cannot answer any more, once it has ended, and close the API."""
        self._process.wait()
        if not self.ready.done():
            self.ready.set_exception(InitError(self._exit_error(None)))
        with self._lock:
            current, self._current = self._current, None
        if current is not None:
            request_id, future = current
            if not future.done():
                future.set_result((self._exit_error(request_id), True))
        self._events.put(None)
        self._api.shutdown()
        self._api.server_close()

    def _exit_error(self, request_id: str | None) -> bytes:
        status = self._process.returncode
        how = f"exit status {status}" if status >= 0 else f"signal: {signal.Signals(-status).name}"
        whose = "" if request_id is None else f"RequestId: {request_id} "
        return _error("Runtime.ExitError", f"{whose}Error: Runtime exited with error: {how}")


def _error(kind: str, message: str) -> bytes:
    return json.dumps({"errorType": kind, "errorMessage": message}).encode()


_RUNTIME: Final = "/2018-06-01/runtime"
_ANSWERED: Final = re.compile(rf"{_RUNTIME}/invocation/([^/]+)/(response|error)")


class _RuntimeApi(BaseHTTPRequestHandler):
    """The runtime API of one process."""

    server: "_Server"
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together

    def do_GET(self) -> None:
        given = self.server.life.next_event() if self.path == f"{_RUNTIME}/invocation/next" else None
        if given is None:
            self._say(404, b"")
            return
        event, deadline_ms = given
        headers = {
            "Lambda-Runtime-Aws-Request-Id": event.request_id,
            "Lambda-Runtime-Invoked-Function-Arn": event.function_arn,
            "Lambda-Runtime-Deadline-Ms": str(deadline_ms),
            "Lambda-Runtime-Trace-Id": event.trace_id,
        }
        self._say(200, event.payload, headers)

    def do_POST(self) -> None:
        body = self._body()
        if self.path == f"{_RUNTIME}/init/error":
            self.server.life.failed_to_load(body)
            self._say(202, b'{"status": "OK"}')
            return
        answered = _ANSWERED.fullmatch(self.path)
        if answered is None or not self.server.life.answered(answered[1], body, is_error=answered[2] == "error"):
            self._say(404, b"")
        else:
            self._say(202, b'{"status": "OK"}')

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _say(self, status: int, body: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **headers,
        }.items():
            self.send_header(name, value)
        with contextlib.suppress(ConnectionError):  # it died: whoever watches it answers the event
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Say nothing: every event would be two lines."""


class _Server(ThreadingHTTPServer):
    """Where one process finds it, on a port of its own."""

    def __init__(self, life: _Life) -> None:
        super().__init__(("127.0.0.1", 0), _RuntimeApi)
        self.life = life

    def server_bind(self) -> None:
        """Without looking our own name up, as `HTTPServer` does."""
        TCPServer.server_bind(self)
