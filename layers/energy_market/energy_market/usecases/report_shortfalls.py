"""Log deliveries that fell short. Call this once the transaction that ended them is committed."""

from collections.abc import Collection

from energy_market.domain.trades import REASON_SENTENCES, Shortfall
from energy_market.logs import log, metric


def report_shortfalls(shortfalls: Collection[Shortfall]) -> None:
    """Log a line for each, with the reason as a word and a sentence, and count `TradesShort`, also by reason.

    A device that never reports deliveries only gets the line: it is no news, and should not raise an alarm.
    """
    for short in shortfalls:
        is_news = short.reason != "unreported"
        log(
            "trade.short",
            level="warning" if is_news else "info",
            transaction_id=short.transaction_id,
            device_id=short.device_id,
            reason=short.reason,
            reason_text=REASON_SENTENCES[short.reason],
            delivered_wh=short.delivered_wh,
        )
        if is_news:
            metric("TradesShort", 1, by={"Reason": short.reason})
