"""Put device messages that failed for good back into their queue."""

from energy_market.aws.dead_letters import DeadLetters
from energy_market.database import Database
from energy_market.domain.operators import Operator
from energy_market.logs import log
from energy_market.postgres import operator_acts


def replay_dead_letters(
    database: Database, letters: DeadLetters, operator: Operator, *, queue: str, reason: str
) -> tuple[int, int]:
    """Returns how many were put back, and about how many are left, which can be requested next.

    Replaying is harmless, however old the messages are: their readers recognise outdated news. The act is recorded
    first, so every act of an operator is on record, even one that then fails.
    """
    with database.transaction() as conn:
        operator_acts.add(conn, operator, "dead_letters.replay", subject=queue, reason=reason)
    replayed, left = letters.replay(queue)
    log("dead_letters.replayed", operator_id=operator.user_id, queue=queue, replayed=replayed, left=left)
    return replayed, left
