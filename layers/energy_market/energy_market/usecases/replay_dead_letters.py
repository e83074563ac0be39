"""Have messages of devices tried again that failed for good."""

from energy_market.aws.dead_letters import DeadLetters
from energy_market.database import Database
from energy_market.domain.operators import Operator
from energy_market.logs import log
from energy_market.postgres import operator_acts


def replay_dead_letters(
    database: Database, letters: DeadLetters, operator: Operator, *, queue: str, reason: str
) -> tuple[int, int]:
    """How many were put back, and about how many are left, of which as many more can be asked for.

    Harmless, however old they are: whoever reads them tells old news from new. Written down before it is done: nothing
    is done by an operator that is not written down, though it may come to nothing.
    """
    with database.transaction() as conn:
        operator_acts.add(conn, operator, "dead_letters.replay", subject=queue, reason=reason)
    replayed, left = letters.replay(queue)
    log("dead_letters.replayed", operator_id=operator.user_id, queue=queue, replayed=replayed, left=left)
    return replayed, left
