"""The API edge: turns a request of API Gateway into a call of a view, and the view's answer or error into a response.

`Api` is a Chalice app that does not use Chalice's JSON, CORS and error handling. Chalice reads JSON numbers as floats,
and turns a view's exception into an anonymous 500 before a middleware can see it. Views are therefore wrapped and
called here, bodies are read raw, and every answer is built in one place. Each request prints one audit line.
"""

import hashlib
import json
import sys
import time
import traceback
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Protocol, Self, TypeVar
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from chalice.app import Chalice, Response

from energy_market.api.exchange import Exchange, network_of
from energy_market.database import UNAVAILABLE, Database
from energy_market.domain import errors, tokens
from energy_market.domain.errors import InvalidRequest, MarketError, Unauthorized
from energy_market.domain.settings import HttpSettings
from energy_market.postgres import admission

MAX_BODY_BYTES: Final = 16 * 1024
MAX_IDEMPOTENCY_KEY: Final = 255
PREFLIGHT_LIFE_S: Final = 600
DATABASE_S: Final = 8.0
"""Seconds from the begin of a request in which the database is awaited."""
RETRY_AFTER_S: Final = 2
"""Seconds that a client is told to wait when the database is away; its own pause, with jitter, is added."""

T = TypeVar("T")

# The only place where an error gets its status.
STATUS_OF: Final[Mapping[type[MarketError], int]] = {
    errors.InvalidRequest: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.PayloadTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.TooManyRequests: 429,
    errors.Unavailable: 503,
}


class ParsedType(Protocol):
    """A type of `fields.py`, which parses itself."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Parse a value. Raises `InvalidRequest`."""


class Api(Chalice):
    """A Chalice app whose views read, decide and present."""

    def __init__(
        self, name: str, *, settings: HttpSettings, database: Database, database_s: float = DATABASE_S
    ) -> None:
        """`database` is the sandbox's single connection, which is opened later.

        `database_s`: seconds of a request in which it is awaited; after that the client is told to retry.
        """
        super().__init__(name, configure_logs=False)
        self._settings = settings
        self._database = database
        self._database_s = database_s
        self._exchange: Exchange | None = None

    # ---- for views

    def route(  # type: ignore[override] # views of this API know nothing of Chalice's other options
        self,
        path: str,
        *,
        methods: Sequence[str],
        takes_query: bool = False,
        needs_database: bool = True,
        sign_in_limit: int | None = None,
    ) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
        """Serve a path. Query parameters are refused unless the view takes them; it must then read them with `query`.

        If a route `needs_database`, its requests are counted there, and refused while it is away. Other routes are
        always served, and have no `caller`. `sign_in_limit` caps the requests per minute of one source over all routes
        that have it.
        """
        register = super().route(path, methods=list(methods), content_types=[], cors=False)

        def decorate(view: Callable[..., Response]) -> Callable[..., Response]:
            def answered(**path_parameters: str) -> Response:
                try:
                    self._admit(needs_database=needs_database, sign_in_limit=sign_in_limit)
                    if not takes_query:
                        self._refuse_parameters()
                    return view(**path_parameters)
                except Exception as error:  # noqa: BLE001 - the edge: whatever fails, the client gets an answer
                    return self._refusal(error)

            register(answered)
            return view

        return decorate

    def read(self, type_: type[T]) -> T:
        """The JSON body as a Struct of this type; numbers arrive with all their digits. Raises `MarketError`."""
        media_type = self._current.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise errors.UnsupportedMediaType("unsupported_media_type", "Content-Type must be application/json.")
        if self._current.headers.get("content-encoding", "").strip().lower() not in {"", "identity"}:
            raise errors.UnsupportedMediaType(
                "unsupported_content_encoding", "The body must be sent as it is, without a Content-Encoding."
            )
        body = self._body()
        if b"\\u0000" in body:
            raise InvalidRequest("invalid_body", "The body holds a NUL character.")
        try:
            read = msgspec.json.Decoder(type_, dec_hook=_parse, float_hook=_decimal).decode(body)
            # The decoder takes the last of two values, other readers take the first: the sender's intent is unknown.
            json.loads(body, object_pairs_hook=_distinct, parse_int=str, parse_float=str)
        except msgspec.ValidationError as refusal:
            from energy_market.api import refusals  # noqa: PLC0415 - only for refusals

            raise refusals.of_body(type_, refusal) from None
        except (ValueError, RecursionError):
            raise InvalidRequest("invalid_json", "The body is not valid JSON.") from None
        return read

    def query(self, type_: type[T]) -> T:
        """The query parameters as a Struct of this type. Raises `InvalidRequest`."""
        try:
            return msgspec.convert(self._parameters(), type_, dec_hook=_parse)
        except msgspec.ValidationError as refusal:
            from energy_market.api import refusals  # noqa: PLC0415 - only for refusals

            raise refusals.of_query(type_, refusal) from None
        except UnicodeError:
            raise InvalidRequest("invalid_query", "The query is not text in UTF-8.") from None

    def path_id(self, text: str) -> UUID:
        """A path parameter that is an id. Raises `NotFound` if it is not spelt like an id."""
        try:
            return msgspec.convert(text, UUID)
        except ValueError:  # no id, or not even a text that can be encoded
            raise errors.NotFound("not_found", "There is nothing with this id.") from None

    def caller(self) -> tokens.Caller:
        """The caller. Raises `Unauthorized` without a valid access token of an open session."""
        caller = self._current.caller
        if not isinstance(caller, tokens.Caller):
            raise caller or RuntimeError("This route does not look at who is asking.")
        return caller

    def source(self) -> str:
        """The network of the request's sender, as API Gateway saw it."""
        return network_of(self._current.source_ip)

    def note_user(self, user_id: UUID) -> None:
        """Name the user in the audit line."""
        self._current.user_id = user_id

    def idempotency_key(self) -> str | None:
        """The Idempotency-Key header. Raises `InvalidRequest` unless it has 1 to 255 printable characters."""
        key = self._current.headers.get("idempotency-key")
        if key is not None and not (0 < len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable()):
            raise InvalidRequest("invalid_idempotency_key", "Idempotency-Key must be 1 to 255 printable characters.")
        return key

    def body_hash(self) -> bytes:
        """SHA-256 of the body as it was sent."""
        return hashlib.sha256(self._body()).digest()

    def present(self, value: object, *, status: int = 200, next_cursor: str | None = None) -> Response:
        """Answer with JSON; with `next_cursor`, a Link header to the next page."""
        body = "" if status == 204 else encode(value)  # noqa: PLR2004
        return self.present_text(body, status=status, next_cursor=next_cursor)

    def present_text(
        self,
        body: str,
        *,
        media_type: str = "application/json",
        status: int = 200,
        next_cursor: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Answer with a text that is already rendered."""
        answer: dict[str, str | list[str]] = {"Content-Type": media_type, "Cache-Control": "no-store"}
        answer.update(headers or {})
        if next_cursor is not None:
            # Relative to the address that the client requested, which a stage or a proxy may have changed.
            query = urlencode({**self._parameters(), "cursor": next_cursor})
            answer["Link"] = f'<?{query}>; rel="next"'
        return Response(body=body, status_code=status, headers=answer)

    # ---- the edge

    def __call__(self, event: Any, context: Any) -> dict[str, Any]:  # noqa: ANN401, ARG002 - as Chalice has it
        """Serve one request of API Gateway's Lambda proxy integration (payload format 1.0)."""
        started = time.perf_counter()
        exchange = self._exchange = Exchange.of(event)
        self._database.start_deadline(self._database_s)
        try:
            methods = self.routes.get(event["requestContext"]["resourcePath"])
            if methods is None:
                answer = self._error(404, "no_such_route", "There is no such route.").to_dict()
            elif exchange.method == "OPTIONS":
                answer = Response(body="", status_code=204, headers={}).to_dict()
            elif exchange.method not in methods:
                refusal = self._error(405, "method_not_allowed", "This route does not know this method.")
                refusal.headers["Allow"] = ", ".join(sorted({*methods, "OPTIONS"}))
                answer = refusal.to_dict()
            else:
                # The view is called directly: Chalice would parse the request a second time.
                view = methods[exchange.method].view_function
                answer = view(**(event.get("pathParameters") or {})).to_dict()
            if exchange.method == "HEAD":
                answer["body"] = ""
            answer["headers"].update(self._cross_origin_headers(methods or {}))
            answer["headers"]["X-Content-Type-Options"] = "nosniff"
            answer["headers"]["X-Request-Id"] = exchange.request_id
            _log(
                method=exchange.method,
                path=exchange.path,
                ip=exchange.source_ip,
                user_id=exchange.user_id,
                status=answer["statusCode"],
                latency_ms=round((time.perf_counter() - started) * 1000, 1),
                request_id=exchange.request_id,
            )
            return answer
        finally:
            self._exchange = None

    @property
    def _current(self) -> Exchange:
        if self._exchange is None:
            raise RuntimeError("There is no request to be served now.")
        return self._exchange

    def _admit(self, *, needs_database: bool, sign_in_limit: int | None) -> None:
        """Identify the caller, and refuse a source or a user above its limit.

        One statement counts both and checks the session. Routes that do not need the database do not need its count
        either.
        """
        exchange = self._current
        source = self.source()
        limits = {source: self._settings.rate_limit_per_minute}
        if sign_in_limit is not None:
            limits[f"sign-in {source}"] = sign_in_limit
        asking = self._token() if needs_database else None
        session_id = None
        if isinstance(asking, tokens.Caller):
            self.note_user(asking.user_id)
            limits[f"user {asking.user_id}"] = self._settings.user_limit_per_minute
            session_id = asking.session_id
        try:
            # If the statement is repeated, the request counts twice, which is harmless.
            rate = self._database.statement(lambda conn: admission.admit(conn, list(limits), session_id=session_id))
        except UNAVAILABLE:
            if needs_database:
                raise
            return
        for requests, limit in zip(rate.requests, limits.values(), strict=True):
            if requests > limit:
                raise errors.TooManyRequests(
                    "too_many_requests",
                    f"More than {limit} requests in a minute.",
                    retry_after_s=rate.rest_of_minute_s,
                )
        if session_id is not None and not rate.session_goes_on:
            asking = Unauthorized("session_ended", "The session of this access token is ended: log in again.")
        exchange.caller = asking

    def _token(self) -> tokens.Caller | Unauthorized:
        """The caller that the access token names, or what is wrong with the token."""
        header = self._current.headers.get("authorization", "")
        scheme, _, token = header.partition(" ")
        if not header:
            return Unauthorized("missing_token", "An access token is needed: Authorization: Bearer <token>.")
        if scheme.lower() != "bearer" or not token:
            return Unauthorized("invalid_token", "The Authorization header must be: Bearer <token>.")
        try:
            return tokens.verify(token.strip(), keys=self._settings.jwt_keys, now=datetime.now(UTC))
        except Unauthorized as refusal:
            return refusal

    def _body(self) -> bytes:
        """The body's bytes. Their number is checked against the limit before anything is decoded."""
        body = self._current.event.get("body") or ""
        encoded = bool(self._current.event.get("isBase64Encoded"))
        limit = (MAX_BODY_BYTES + 2) // 3 * 4 if encoded else MAX_BODY_BYTES
        if len(body) <= limit:
            try:
                data = b64decode(body, validate=True) if encoded else body.encode()
            except ValueError:
                raise InvalidRequest("invalid_body", "The body cannot be decoded.") from None
            if len(data) <= MAX_BODY_BYTES:
                return data
        raise errors.PayloadTooLarge("payload_too_large", f"A body has at most {MAX_BODY_BYTES} bytes.")

    def _parameters(self) -> dict[str, str]:
        """The query parameters, each given once."""
        given = self._current.event.get("multiValueQueryStringParameters") or {}
        for name, values in given.items():
            if len(values) != 1:
                raise InvalidRequest("invalid_query", f'The query parameter "{name[:40]}" is given more than once.')
        return {name: values[0] for name, values in given.items()}

    def _refuse_parameters(self) -> None:
        if self._parameters():
            raise InvalidRequest("invalid_query", "This route takes no query parameters.")

    def _refusal(self, error: Exception) -> Response:
        """The answer to an exception."""
        if isinstance(error, MarketError):
            status = next((STATUS_OF[class_] for class_ in type(error).__mro__ if class_ in STATUS_OF), None)
            if status is not None:
                refusal = self._error(status, error.code, error.sentence)
                if isinstance(error, errors.TooManyRequests | errors.Unavailable):
                    refusal.headers["Retry-After"] = str(error.retry_after_s)
                if isinstance(error, Unauthorized):
                    refusal.headers["WWW-Authenticate"] = "Bearer"
                if isinstance(error, errors.UnsupportedMediaType):  # the accepted types: RFC 9110, 15.5.16
                    refusal.headers |= {"Accept": "application/json", "Accept-Encoding": "identity"}
                return refusal
        _log(
            level="ERROR",
            message="unexpected exception",
            request_id=self._current.request_id,
            traceback="".join(traceback.format_exception(error)),
        )
        if isinstance(error, UNAVAILABLE):
            refusal = self._error(503, "database_unavailable", "The database cannot serve this now; try again shortly.")
            refusal.headers["Retry-After"] = str(RETRY_AFTER_S)
            return refusal
        return self._error(500, "internal", f"This failed on our side; the request's id is {self._current.request_id}.")

    def _error(self, status: int, code: str, sentence: str) -> Response:
        return self.present({"error": sentence, "code": code}, status=status)

    def _cross_origin_headers(self, methods: Mapping[str, object]) -> dict[str, str]:
        """The headers that let a page of an allowed origin use the API. There are no cookies, so no credentials."""
        allowed = self._settings.allowed_origins
        headers = {} if "*" in allowed else {"Vary": "Origin"}
        origin = self._current.headers.get("origin")
        if "*" in allowed:
            headers["Access-Control-Allow-Origin"] = "*"
        elif origin in allowed:
            headers["Access-Control-Allow-Origin"] = origin
        else:
            return headers
        headers["Access-Control-Expose-Headers"] = "Link, Retry-After, X-Request-Id"
        if self._current.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = ", ".join(sorted({*methods, "OPTIONS"}))
            headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, Idempotency-Key"
            headers["Access-Control-Max-Age"] = str(PREFLIGHT_LIFE_S)
        return headers


_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")


def encode(value: object) -> str:
    """JSON, with decimals as numbers with all their digits."""
    return _ENCODER.encode(value).decode()


def _parse(type_: type[ParsedType], value: object) -> object:
    return type_.parse(value)


def _distinct(pairs: list[tuple[str, object]]) -> None:
    """Raise `InvalidRequest` for a JSON object that has a key twice."""
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise InvalidRequest("duplicate_key", f'The body names "{name[:40]}" more than once.')
        names.add(name)


def _decimal(text: str) -> Decimal:
    """A JSON number with all its digits; ValueError for an exponent that even `Decimal` cannot hold."""
    try:
        return Decimal(text)
    except ArithmeticError:
        raise ValueError("number out of range") from None


def _log(**fields: object) -> None:
    """Print one line of JSON, which Lambda collects."""
    sys.stdout.write(encode(fields) + "\n")
    sys.stdout.flush()
