"""Limits of rate, and what else is refused by chance and granted a moment later."""

from collections.abc import Callable
from typing import ClassVar

from local_market.faulty_node.way import SERVER_ERROR, Call, Json, Reply, Request, Way, error, page, said, way


class _Http(Way):
    """A share of the requests is refused by the HTTP status."""

    share: ClassVar[float]

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        return self.refusal() if self.chance.random() < self.share else go_on(request)

    def refusal(self) -> Reply:
        raise NotImplementedError


class _Inside(Way):
    """A share of the calls is refused inside an answer whose HTTP status is 200."""

    share: ClassVar[float]
    words: ClassVar[Json]

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        return self.words if self.chance.random() < self.share else go_on(call)


@way
class TooManyRequests10(_Http):
    """Ankr, dRPC and public addresses: HTTP status 429 for a tenth of the requests."""

    share = 0.1

    def refusal(self) -> Reply:
        return page(429, "Too Many Requests")


@way
class TooManyRequests30(TooManyRequests10):
    """The same for three in ten."""

    share = 0.3


@way
class RetryAfter10(_Http):
    """Infura and gateways by Envoy: HTTP status 429 with `Retry-After` for a tenth of the requests."""

    share = 0.1

    def refusal(self) -> Reply:
        reply = said({"jsonrpc": "2.0", "id": None, **error(-32005, "Too Many Requests")}, status=429)
        reply.headers["Retry-After"] = "1"
        return reply


@way
class RetryAfter30(RetryAfter10):
    """The same for three in ten."""

    share = 0.3


@way
class RateLimitInfura10(_Inside):
    """Infura and Chainstack: the code -32005 for a tenth of the calls, in HTTP status 200."""

    share = 0.1
    words = error(-32005, "project ID request rate exceeded", data={"try_again_in": "500ms"})


@way
class RateLimitInfura30(RateLimitInfura10):
    """The same for three in ten."""

    share = 0.3


@way
class RateLimitGateway10(_Inside):
    """Gateways that count calls a second: the code -32029 for a tenth of the calls."""

    share = 0.1
    words = error(-32029, "Too Many Requests")


@way
class RateLimitGateway30(RateLimitGateway10):
    """The same for three in ten."""

    share = 0.3


@way
class RateLimitAlchemy10(_Inside):
    """Alchemy: the code 429 for a tenth of the calls, also for single calls of a list."""

    share = 0.1
    words = error(429, "Your app has exceeded its compute units per second capacity. If you have retries enabled, ...")


@way
class RateLimitAlchemy30(RateLimitAlchemy10):
    """The same for three in ten."""

    share = 0.3


@way
class RateLimitQuicknode(_Inside):
    """QuickNode: the code -32007 by the second, -32012 by credits."""

    share = 0.2
    words = error(-32007, "15/second request limit reached - reduce calls per second or upgrade your account")


@way
class RateLimitQuoted(_Inside):
    """Base: a node that quotes the refusal of another node, under the code of all errors (base/node, issue 368)."""

    share = 0.2
    words = error(
        SERVER_ERROR, '429 Too Many Requests: {"jsonrpc":"2.0","error":{"code":-32016,"message":"over rate limit"}}'
    )


@way
class BadGateway(_Http):
    """A load balancer whose node has gone: HTTP status 502 and a page, for a fifth of the requests."""

    share = 0.2

    def refusal(self) -> Reply:
        return page(502, "Bad Gateway")


@way
class PagesInside200(_Http):
    """Cloudflare before a public node: a page for people under HTTP status 200, for a fifth of the requests."""

    share = 0.2

    def refusal(self) -> Reply:
        return page(200, "Checking your browser before accessing")


@way
class EmptyAnswers(_Http):
    """Proxies that time out without a word: HTTP status 200 and no body, for a fifth of the requests."""

    share = 0.2

    def refusal(self) -> Reply:
        return Reply(body=b"")


@way
class Unavailable(_Http):
    """Nodes that start or are drained: HTTP status 503, a JSON body, `Retry-After`."""

    share = 0.2

    def refusal(self) -> Reply:
        reply = said({"jsonrpc": "2.0", "id": None, **error(-32603, "service unavailable")}, status=503)
        reply.headers["Retry-After"] = "1"
        return reply


@way
class TimeoutsInside200(_Inside):
    """geth behind dRPC: the node's own deadline was over, for a tenth of the calls."""

    share = 0.1
    words = error(-32002, "request timed out")


@way
class InternalErrors(_Inside):
    """Besu, and gateways between two of its nodes: an internal error for a tenth of the calls."""

    share = 0.1
    words = error(-32603, "Internal error")


@way
class ErrorsAsWords(_Inside):
    """Gateways that put a sentence where JSON-RPC has an object, for a tenth of the calls."""

    share = 0.1
    words: ClassVar[Json] = {"error": "upstream capacity exceeded, please try again"}


@way
class NothingAtAll(_Inside):
    """Gateways whose node did not answer in time: both `result` and `error` are null, for a tenth of the calls."""

    share = 0.1
    words: ClassVar[Json] = {"result": None, "error": None}
