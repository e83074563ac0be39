"""Pages of a list: the requested one, and the beginning of the next."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from msgspec import Struct

from energy_market.api.fields import Cursor, PageLimit

DEFAULT_PAGE: Final = PageLimit(100)
T = TypeVar("T")


class PageQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Query parameters of a list; a route's subclass adds its own."""

    limit: PageLimit = DEFAULT_PAGE
    cursor: Cursor | None = None

    def place(self) -> int | None:
        """The position after which the page begins; None for the first page. Raises `InvalidRequest`."""
        return None if self.cursor is None else self.cursor.integers(1)[0]

    def next(self, page: Sequence[T], place_of: Callable[[T], int]) -> str | None:
        """The cursor of the page after this one; None after a page that is not full."""
        return Cursor.spell(str(place_of(page[-1]))) if len(page) == self.limit else None
