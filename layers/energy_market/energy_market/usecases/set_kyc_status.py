"""Record whether a user's identity is verified."""

from uuid import UUID

from energy_market.database import Database
from energy_market.domain.errors import Forbidden, NotFound
from energy_market.domain.operators import Operator
from energy_market.domain.users import KycStatus, User
from energy_market.logs import log
from energy_market.postgres import book, operator_acts, users


def set_kyc_status(
    database: Database, operator: Operator, *, user_id: UUID, kyc_status: KycStatus, reason: str
) -> User:
    """Set the status. If the market requires it, unverified users place no orders and their orders are not matched.

    Those orders stay in the book, and are matched again once their owner is verified. Raises NotFound if there is no
    such user, and Forbidden for the operator's own account: nobody vouches for themselves.
    """
    if user_id == operator.user_id:
        raise Forbidden("own_account", "Another operator has to say this of you.")
    with database.transaction() as conn:
        before = users.hold(conn, user_id)
        if before is None:
            raise NotFound("no_such_user", "There is no user with this id.")
        # An order that is being placed at this moment would neither be marked by the change nor see it.
        book.hold(conn)
        after = users.set_kyc_status(conn, user_id, kyc_status)
        operator_acts.add(
            conn,
            operator,
            "user.kyc_status",
            subject=str(user_id),
            before=before.kyc_status,
            after=after.kyc_status,
            reason=reason,
        )
    log("user.kyc_status", operator_id=operator.user_id, user_id=user_id, kyc_status=kyc_status)
    return after
