"""What can be wrong with a request.

MarketError
 ├── InvalidRequest         what was sent makes no sense
 ├── Unauthorized           who is asking is not known
 ├── Forbidden              who is asking may not
 ├── NotFound               there is no such thing
 ├── Conflict               what is asked does not fit the present state
 ├── PayloadTooLarge
 ├── UnsupportedMediaType
 ├── TooManyRequests
 └── Unavailable            what the answer needs is away

The domain raises these; one table at the HTTP edge gives each class its status.
"""


class MarketError(Exception):
    """A request that cannot be served: a word for programs and a sentence for people."""

    def __init__(self, code: str, sentence: str) -> None:
        """`code` is a snake_case word that stays the same; `sentence` may be reworded."""
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class InvalidRequest(MarketError):
    """What was sent makes no sense."""


class Unauthorized(MarketError):
    """Who is asking is not known."""


class Forbidden(MarketError):
    """Who is asking may not do this."""


class NotFound(MarketError):
    """There is no such thing."""


class Conflict(MarketError):
    """What is asked does not fit the present state."""


class PayloadTooLarge(MarketError):
    """More was sent than is ever needed."""


class UnsupportedMediaType(MarketError):
    """What was sent is not JSON."""


class TooManyRequests(MarketError):
    """More requests than the limit allows."""

    def __init__(self, code: str, sentence: str, *, retry_after_s: int) -> None:
        """`retry_after_s`: seconds until the next request will be served."""
        super().__init__(code, sentence)
        self.retry_after_s = retry_after_s


class Unavailable(MarketError):
    """What the answer needs cannot be asked now, as the chain's node."""

    def __init__(self, code: str, sentence: str, *, retry_after_s: int) -> None:
        """`retry_after_s`: seconds after which another try makes sense."""
        super().__init__(code, sentence)
        self.retry_after_s = retry_after_s
