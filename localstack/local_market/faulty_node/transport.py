"""HTTP: who is let in, where one is sent, and how an answer comes over."""

import base64
import gzip
import time
from collections.abc import Callable
from dataclasses import replace

from local_market.faulty_node.way import Reply, Request, Way, page, said, way

USER, PASSWORD = "market", "a:pass/word"  # what the address of a node holds, percent-encoded
ELSEWHERE = "/v3/moved"


class _Answers(Way):
    """Answers are the same and come over otherwise."""

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        reply = go_on(request)
        return None if reply is None else self.sent(reply)

    def sent(self, reply: Reply) -> Reply:
        raise NotImplementedError


@way
class NeedsUserAgent(Way):
    """Cloudflare's rules before public nodes: HTTP status 403 without a `User-Agent`."""

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        return go_on(request) if request.headers.get("user-agent") else page(403, "Access denied")


@way
class NeedsPassword(Way):
    """Chainstack and nodes behind nginx: HTTP status 401 without the address's user and password."""

    anytime = False

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if request.headers.get("authorization") == expected:
            return go_on(request)
        reply = page(401, "Authorization Required")
        reply.headers["WWW-Authenticate"] = 'Basic realm="node"'
        return reply


@way
class MovedPermanently(Way):
    """Providers that have moved: HTTP status 301 to another path of the same host."""

    anytime = False

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        if request.path == ELSEWHERE:
            return go_on(request)
        reply = page(301, "Moved Permanently")
        reply.headers["Location"] = ELSEWHERE
        return reply


@way
class MovedForNow(MovedPermanently):
    """Providers that spread load by HTTP status 307."""

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        reply = super().exchange(request, go_on)
        return reply if reply is None or reply.status != 301 else replace(reply, status=307)


@way
class Gzip(_Answers):
    """CDNs that compress whatever is asked for."""

    def sent(self, reply: Reply) -> Reply:
        headers = reply.headers | {"Content-Encoding": "gzip"}
        return replace(reply, headers=headers, body=gzip.compress(reply.body, 1))


@way
class ClosesEachConnection(_Answers):
    """Gateways with `Connection: close` on each answer."""

    def sent(self, reply: Reply) -> Reply:
        return replace(reply, ends="close")


@way
class ClosesInSilence(_Answers):
    """Load balancers that drop idle connections: the answer says nothing of it, and the next request meets no one."""

    def sent(self, reply: Reply) -> Reply:
        return replace(reply, closes=True)


@way
class Chunks(_Answers):
    """nginx before a node: answers in chunks, without a length."""

    def sent(self, reply: Reply) -> Reply:
        return replace(reply, ends="chunks")


@way
class Slow(Way):
    """Nodes under load: each answer takes a tenth of a second."""

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        time.sleep(0.1)
        return go_on(request)


@way
class PlainText(_Answers):
    """Small servers: `text/plain`, and white space around the JSON."""

    def sent(self, reply: Reply) -> Reply:
        return replace(
            reply, headers={"Content-Type": "text/plain; charset=utf-8"}, body=b"\r\n  " + reply.body + b"\n\n"
        )


@way
class RefusalsAs400(_Answers):
    """Alchemy and Hedera's relay: an error of JSON-RPC comes with HTTP status 400."""

    status = 400

    def sent(self, reply: Reply) -> Reply:
        return replace(reply, status=self.status) if reply.status == 200 and b'"error": {' in reply.body else reply


@way
class RefusalsAs500(RefusalsAs400):
    """Geth's heirs behind some gateways: an error of JSON-RPC comes with HTTP status 500."""

    status = 500


@way
class LosesAnswers(Way):
    """Any network: a tenth of the answers is lost after the node has done its work."""

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        reply = go_on(request)
        return None if self.chance.random() < 0.1 else reply


@way
class OnlyJson(Way):
    """geth: HTTP status 415 for any content type but JSON's, and a strict eye on the request's form."""

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        if request.headers.get("content-type") != "application/json":
            return said("invalid content type, only application/json is supported", status=415)
        return go_on(request)
