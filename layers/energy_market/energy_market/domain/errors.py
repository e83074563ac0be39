"""The errors of a request.

MarketError
 ├── InvalidRequest         the request is malformed
 ├── Unauthorized           the caller is not known
 ├── Forbidden              the caller may not do this
 ├── NotFound               the thing does not exist
 ├── Conflict               the request does not fit the present state
 ├── PayloadTooLarge
 ├── UnsupportedMediaType
 ├── TooManyRequests
 └── Unavailable            a service that the answer needs is away

The domain raises these; one table at the HTTP edge gives each class its status.
"""


class MarketError(Exception):
    """A request that cannot be served: a code for programs and a sentence for people."""

    def __init__(self, code: str, sentence: str) -> None:
        """`code` is a snake_case word that never changes; `sentence` may be reworded."""
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class InvalidRequest(MarketError):
    """The request is malformed."""


class Unauthorized(MarketError):
    """The caller is not known."""


class Forbidden(MarketError):
    """The caller may not do this."""


class NotFound(MarketError):
    """The thing does not exist."""


class Conflict(MarketError):
    """The request does not fit the present state."""


class PayloadTooLarge(MarketError):
    """The body is larger than any valid request."""


class UnsupportedMediaType(MarketError):
    """The body is not JSON."""


class TooManyRequests(MarketError):
    """The caller has made more requests than the limit allows."""

    def __init__(self, code: str, sentence: str, *, retry_after_s: int) -> None:
        """`retry_after_s`: seconds until the next request is served."""
        super().__init__(code, sentence)
        self.retry_after_s = retry_after_s


class Unavailable(MarketError):
    """A service that the answer needs, such as the chain's node, cannot be asked now."""

    def __init__(self, code: str, sentence: str, *, retry_after_s: int) -> None:
        """`retry_after_s`: seconds after which a retry makes sense."""
        super().__init__(code, sentence)
        self.retry_after_s = retry_after_s
