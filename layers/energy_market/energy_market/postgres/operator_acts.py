"""Operators' acts (the table `operator_acts`; rows are only ever added)."""

from typing import Final, LiteralString

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.operators import Act, ActKind, Operator

_COLUMNS: Final[LiteralString] = "id, operator_id, wallet_address, act, subject, before, after, reason, at"


def add(
    conn: Connection,
    operator: Operator,
    act: ActKind,
    *,
    subject: str | None = None,
    before: str | None = None,
    after: str | None = None,
    reason: str,
) -> Act:
    """Record an act, in the transaction that performs it: both take effect, or neither."""
    with conn.cursor(row_factory=class_row(Act)) as cursor:
        written = cursor.execute(
            "INSERT INTO operator_acts (operator_id, wallet_address, act, subject, before, after, reason)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING " + _COLUMNS,
            (operator.user_id, operator.wallet_address, act, subject, before, after, reason),
        ).fetchone()
    assert written is not None  # an INSERT of one row returns one row
    return written


def page(conn: Connection, *, subject: str | None = None, before_id: int | None = None, limit: int) -> list[Act]:
    """Acts, latest first; with `subject`, only those on that subject."""
    with conn.cursor(row_factory=class_row(Act)) as cursor:
        return cursor.execute(
            "SELECT " + _COLUMNS + " FROM operator_acts WHERE (%(subject)s::text IS NULL OR subject = %(subject)s)"
            " AND (%(before)s::bigint IS NULL OR id < %(before)s) ORDER BY id DESC LIMIT %(limit)s",
            {"subject": subject, "before": before_id, "limit": limit},
        ).fetchall()
