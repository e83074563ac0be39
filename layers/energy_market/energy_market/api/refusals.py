"""Sentences for people about a wrong field; the decoder's own texts speak of types, paths and regular expressions.

Only imported when a request is refused.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin
from uuid import UUID

import msgspec

from energy_market.domain.errors import InvalidRequest

SHOWN_CHARACTERS: Final = 40
"""Maximum characters of a name that are repeated to its sender."""

TIME: Final = "a time with a time zone, like 2026-11-28T12:00:00Z"
_WORDS: Final[Mapping[Any, str]] = {
    bool: "true or false",
    datetime: TIME,
    str: "a text",
    UUID: "an id (a UUID)",
}
# The decoder's own texts. A name in the first two comes from the sender, and may hold anything.
_MISSING: Final = re.compile(r"Object missing required field `(.+)`", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_PLACE: Final = re.compile(r" - at `\$\.(\w+)[^`]*`\Z")


def of_body(struct: type, refusal: msgspec.ValidationError) -> InvalidRequest:
    """The refusal of a JSON body that does not fit `struct`."""
    return _refusal(struct, refusal, code="invalid_body", what="field", whole="The body must be a JSON object.")


def of_query(struct: type, refusal: msgspec.ValidationError) -> InvalidRequest:
    """The refusal of query parameters that do not fit `struct`."""
    return _refusal(struct, refusal, code="invalid_query", what="query parameter", whole="The query is malformed.")


def shown(name: str) -> str:
    """A name from a sender, short enough to be repeated."""
    return name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}..."


def _refusal(struct: type, refusal: msgspec.ValidationError, *, code: str, what: str, whole: str) -> InvalidRequest:
    text = str(refusal)
    if missing := _MISSING.fullmatch(text):
        return InvalidRequest(code, f"The {what} {missing[1]} is missing.")
    if unknown := _UNKNOWN.fullmatch(text):
        return InvalidRequest(code, f'There is no {what} "{shown(unknown[1])}" here.')
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    place = _PLACE.search(text)
    if place is None or place[1] not in fields:
        return InvalidRequest(code, whole)
    words, own_code, may_be_null = _expected(fields[place[1]])
    null = " or null" if may_be_null and what == "field" else ""
    return InvalidRequest(own_code or code, f"{place[1]} must be {words}{null}.")


def _expected(annotation: Any) -> tuple[str, str | None, bool]:  # noqa: ANN401 - whatever a Struct may have
    """(The expected value in words, the error code of its type or None, whether null is allowed)."""
    origin = get_origin(annotation)
    if origin in {Union, UnionType}:
        (type_,) = (part for part in get_args(annotation) if part is not NoneType)
        return *_expected(type_)[:2], True
    if origin is Annotated:
        type_, *notes = get_args(annotation)
        metas = [note for note in notes if isinstance(note, msgspec.Meta)]
        words = next((meta.description for meta in metas if meta.description), None)
        return words or _WORDS[type_], next((meta.extra["code"] for meta in metas if meta.extra), None), False
    if origin is Literal:
        *most, last = map(str, get_args(annotation))
        return f"{', '.join(most)} or {last}", None, False
    if annotation in _WORDS:
        return _WORDS[annotation], None, False
    return annotation.EXPECTED, getattr(annotation, "CODE", None), False
