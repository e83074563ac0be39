"""Mutants of devices, their certificates, reports and deliveries."""

from typing import Final

from tests.mutants.catalogue.mutant import LEFT_OUT, LIFE, LOCKS, MESSAGES, PACKAGE, SILENCE, mutant

DEVICES: Final = f"{PACKAGE}/postgres/devices.py"
CERTIFICATES: Final = f"{PACKAGE}/postgres/certificates.py"
FED: Final = "infra/migrations/0016_what_was_fed_is_counted_once.sql"
TELEMETRY: Final = f"{PACKAGE}/usecases/record_telemetry.py"
REGISTER: Final = f"{PACKAGE}/usecases/register_device.py"
_DELIVERIES: Final = "tests/integration/test_deliveries.py"
_LOST: Final = "tests/integration/test_lost_devices.py"
_REGISTERING: Final = "tests/integration/test_iot_api.py"
_CERTIFICATES: Final = "tests/integration/test_certificates.py"
_FED: Final = "tests/integration/test_fed_once.py"

MUTANTS: Final = (
    mutant(
        "free_energy_forgets_promises",
        "what is promised is sold again by the next tick",
        LIFE,
        (
            DEVICES,
            '"SELECT d.no, (d.available_wh - (" + _TRADED + ") -',
            '"SELECT d.no, (d.available_wh - 0 * (" + _TRADED + ") -',
        ),
    ),
    mutant(
        "free_energy_forgets_what_is_locked",
        "a lock does not end a promise",
        LIFE,
        (
            DEVICES,
            '" FROM transactions t WHERE t.device_id = d.id AND "',
            "\" FROM transactions t WHERE t.status IN ('Pending', 'Confirmed') AND t.device_id = d.id AND \"",
        ),
    ),
    mutant(
        "what_falls_short_stays_promised",
        "energy that is not delivered any more may be sold",
        LIFE,
        (
            f"{PACKAGE}/postgres/deliveries.py",
            "CASE WHEN t.status = 'Failed' OR t.delivery IN ('Delivered', 'Short') THEN",
            "CASE WHEN t.status = 'Failed' OR t.delivery = 'Delivered' THEN",
        ),
    ),
    mutant(
        "devices_that_are_away_are_matched",
        "an ask takes part only while its device is there",
        LIFE,
        (DEVICES, "\"d.status = 'Online' AND d.silent_since IS NULL", '"d.silent_since IS NULL'),
    ),
    mutant(
        "devices_that_are_silent_are_matched",
        "a device that let a lock run out waits for its next status",
        LIFE,
        (DEVICES, "AND d.silent_since IS NULL AND d.paused_until", "AND d.paused_until"),
    ),
    mutant(
        "devices_not_heard_of_are_matched",
        "an ask takes part only while its device was heard of lately",
        LIFE,
        (DEVICES, 'AND d.last_ping > now() - make_interval(secs => %(online_s)s)"\n', 'AND %(online_s)s > 0"\n'),
    ),
    mutant(
        "a_match_is_no_promise",
        "what is matched, and not a trade yet, is sold again by the next tick",
        ("tests/integration/test_matches.py::test_a_match_counts_as_matched_and_as_promised_before_it_is_a_trade",),
        (DEVICES, "- coalesce(m.energy_wh, 0))::bigint", "- 0 * coalesce(m.energy_wh, 0))::bigint"),
    ),
    mutant(
        "the_client_of_a_topic_is_not_compared",
        "a device speaks under another's topic",
        LIFE,
        (f"{PACKAGE}/messages/received.py", "if message.client_id != device_id:", "if not message.client_id:"),
    ),
    mutant(
        "anybody_speaks_for_a_device",
        "a message counts under a certificate of its device only",
        (f"{_CERTIFICATES}::test_under_no_certificate_or_a_foreign_one_nothing_that_is_said_of_a_device_counts",),
        (f"{PACKAGE}/usecases/recognise_device.py", 'raise Dropped("unknown_certificate")', "return False"),
    ),
    mutant(
        "a_certificate_that_has_ended_speaks_on",
        "what is revoked counts no more",
        (f"{_CERTIFICATES}::test_under_a_revoked_certificate_nothing_counts_and_the_device_is_not_matched",),
        (
            CERTIFICATES,
            "WHERE c.id = %s AND c.device_id = %s AND (c.valid_until IS NULL OR c.valid_until > clock_timestamp())",
            "WHERE c.id = %s AND c.device_id = %s AND (c.valid_until IS NULL OR true)",
        ),
    ),
    mutant(
        "a_certificate_is_let_in_before_it_is_written_down",
        "nothing is active that nobody knows of",
        (f"{_REGISTERING}::test_a_certificate_opens_no_door_before_it_is_written_down",),
        (
            f"{PACKAGE}/aws/registry.py",
            "iot.create_keys_and_certificate()",
            "iot.create_keys_and_certificate(setAsActive=True)",
        ),
    ),
    mutant(
        "a_device_goes_with_what_it_owes",
        "who was paid delivers",
        (f"{_CERTIFICATES}::test_a_device_that_owes_energy_is_not_removed_by_its_owner",),
        (
            f"{PACKAGE}/usecases/remove_device.py",
            "if owner_id is not None and deliveries.owed_by_device(conn, device_id):",
            "if owner_id is not None and not device_id:",
        ),
    ),
    mutant(
        "somebody_elses_device_is_removed",
        "a device is its owner's",
        (f"{_CERTIFICATES}::test_somebody_elses_device_is_nobodys",),
        (
            DEVICES,
            "WHERE id = %s AND owner_id = coalesce(%s, owner_id) AND status NOT IN",
            "WHERE id = %s AND owner_id = coalesce(owner_id, %s) AND status NOT IN",
        ),
        (DEVICES, "AND id = coalesce(%s, id) FOR NO KEY UPDATE", "AND id = coalesce(id, %s) FOR NO KEY UPDATE"),
    ),
    mutant(
        "a_device_that_fails_again_and_again_never_pauses",
        "one cheap ask of a device that never answers does not hold up the best bid for ever",
        (f"{SILENCE}::test_the_third_failure_in_a_row_rejects_the_order_and_makes_its_device_pause",),
        (DEVICES, "AND d.paused_until IS NULL AND d.available_wh > 0", "AND d.available_wh > 0"),
    ),
    mutant(
        "one_silence_counts_by_its_trades",
        "a line that is down for a minute fails all that was matched before, once",
        (f"{SILENCE}::test_what_was_matched_before_a_failure_was_noticed_fails_with_it_once",),
        (DEVICES, "CASE WHEN d.failed_at IS NULL OR d.failed_at < t.matched_at", "CASE WHEN true"),
    ),
    mutant(
        "what_a_status_still_lists_is_not_released",
        "a device that refused and holds nevertheless keeps the energy for ever",
        (f"{LOCKS}::test_an_unlock_is_owed_until_the_device_no_longer_lists_the_lock",),
        (TELEMETRY, "        deliveries.owe_unlock(conn, device_id, status.locks, seq=status.seq)\n", ""),
    ),
    mutant(
        "an_unlock_counts_before_it_was_said",
        "a status from before the lock was heard ends the unlock",
        LIFE,
        (
            f"{PACKAGE}/postgres/deliveries.py",
            "AND unlock = 'Owed' AND command_sent_at IS NOT NULL AND NOT id = ANY (%s)",
            "AND unlock = 'Owed' AND NOT id = ANY (%s)",
        ),
    ),
    mutant(
        "old_statuses_count",
        "a status that was overtaken says what is not so any more",
        (f"{LOCKS}::test_an_old_status_is_dropped",),
        (f"{PACKAGE}/postgres/device_reports.py", "ELSE status_seq IS NULL OR status_seq < %(seq)s\n", "ELSE true\n"),
    ),
    mutant(
        "what_was_delivered_stays_available",
        "energy that left the house is sold again before the next status",
        LIFE,
        (
            f"{PACKAGE}/postgres/deliveries.py",
            "THEN t.delivered_wh ELSE t.energy_wh END",
            "THEN 0 ELSE t.energy_wh END",
        ),
    ),
    mutant(
        "what_was_fed_stays_promised",
        "what was fed before a status is in its available energy no more, and is not promised any more",
        (
            f"{_FED}::test_what_was_fed_before_a_status_is_not_promised_any_more",
            f"{_FED}::test_no_order_of_messages_counts_anything_twice",
        ),
        (
            TELEMETRY,
            "    if status.available_wh is not None:\n        deliveries.count_fed",
            "    if not status:\n        deliveries.count_fed",
        ),
    ),
    mutant(
        "what_was_fed_after_a_status_counts_as_before_it",
        "a report that was said after a status tells of energy that the status still has",
        (f"{_FED}::test_no_order_of_messages_counts_anything_twice",),
        (f"{PACKAGE}/postgres/deliveries.py", "OR r.seq < s.seq AND r.heard_at", "OR true AND r.heard_at"),
    ),
    mutant(
        "energy_that_was_fed_makes_nothing_new",
        "a report that comes late leaves its device more to give",
        (f"{_FED}::test_what_is_free_in_the_middle_of_a_delivery_is_sold",),
        (FED, "\n          OR NEW.fed_wh > OLD.fed_wh", ""),
    ),
    mutant(
        "a_lost_reservation_is_paid",
        "a device that says it holds nothing will deliver nothing",
        LIFE,
        (
            f"{PACKAGE}/postgres/deliveries.py",
            "return [trade for trade, is_lost in rows if is_lost]",
            "return [trade for trade, is_lost in rows if not trade]",
        ),
    ),
    mutant(
        "a_delivery_is_subtracted_twice",
        "what is delivered again after a repeated transfer is no news",
        (f"{MESSAGES}::test_a_message_that_comes_twice_counts_once",),
        (
            f"{PACKAGE}/postgres/deliveries.py",
            "AND status = 'Confirmed' AND delivery <> 'Delivered'\n",
            "AND status = 'Confirmed'\n",
        ),
    ),
    mutant(
        "any_end_of_a_delivery_is_all_of_it",
        "what ended with less is short",
        LIFE,
        (
            f"{PACKAGE}/postgres/deliveries.py",
            "%(wh)s >= energy_wh AS in_full,",
            "%(ended)s::text IS NOT NULL AS in_full,",
        ),
    ),
    mutant(
        "a_short_delivery_is_not_released",
        "what a device holds for a delivery that ended is released",
        LIFE,
        (
            f"{PACKAGE}/postgres/deliveries.py",
            "unlock = CASE WHEN falls_short THEN 'Owed' ELSE unlock END,",
            "unlock = unlock,",
        ),
    ),
    mutant(
        "a_delivery_has_no_end",
        "what is not delivered in time is short",
        (f"{_DELIVERIES}::test_what_is_not_delivered_in_time_is_short",),
        (f"{PACKAGE}/postgres/deliveries.py", "AND t.deliver_by <= clock_timestamp()", "AND t.deliver_by IS NULL"),
    ),
    mutant(
        "a_full_delivery_counts_only_in_order",
        "all of it is all of it, whatever was said meanwhile",
        (f"{_DELIVERIES}::test_a_full_delivery_counts_however_late_and_in_whatever_order_it_is_reported",),
        (
            f"{PACKAGE}/postgres/deliveries.py",
            "AND (%(wh)s >= energy_wh OR delivery_seq IS NULL",
            "AND (delivery_seq IS NULL",
        ),
    ),
    mutant(
        "an_unlock_is_owed_for_ever",
        "what nobody hears lapses",
        (f"{_LOST}::test_a_trade_ends_wherever_its_device_is_lost",),
        (
            f"{PACKAGE}/postgres/deliveries.py",
            "WHERE unlock = 'Owed' AND unlock_by <= clock_timestamp()",
            "WHERE unlock = 'Owed' AND unlock_by IS NULL",
        ),
    ),
    mutant(
        "a_status_from_before_the_lock_loses_it",
        "statuses and answers overtake each other",
        (f"{_LOST}::test_no_order_of_messages_makes_a_reservation_look_lost",),
        (
            f"{PACKAGE}/postgres/deliveries.py",
            "coalesce(status = 'Locked' AND batch_id IS NULL AND lock_seq < %(seq)s::bigint",
            "coalesce(status = 'Locked' AND batch_id IS NULL",
        ),
        (
            f"{PACKAGE}/postgres/deliveries.py",
            "'Short' AND batch_id IS NULL AND lock_seq < %(seq)s::bigint",
            "'Short' AND batch_id IS NULL",
        ),
    ),
    mutant(
        "a_lost_lock_fails_what_may_be_paid",
        "what was signed may be paid",
        (f"{_LOST}::test_a_trade_that_may_be_paid_is_not_failed_for_a_lost_reservation",),
        (
            f"{PACKAGE}/postgres/deliveries.py",
            "coalesce(status = 'Locked' AND batch_id IS NULL AND lock_seq < %(seq)s::bigint",
            "coalesce(status = 'Locked' AND lock_seq < %(seq)s::bigint",
        ),
        (
            f"{PACKAGE}/postgres/deliveries.py",
            "'Short' AND batch_id IS NULL AND lock_seq < %(seq)s::bigint",
            "'Short' AND lock_seq < %(seq)s::bigint",
        ),
    ),
    mutant(
        "a_count_that_fell_behind_is_never_heard",
        "a device that forgot is heard again",
        (f"{_LOST}::test_a_device_whose_count_is_behind_is_heard_again_after_ten_minutes",),
        (f"{PACKAGE}/postgres/device_reports.py", "OR status_heard_at < ", "OR status_heard_at > "),
    ),
    mutant(
        "a_device_feeds_on_when_it_is_told_to_stop",
        "what the market waits for no longer is not delivered",
        (f"{_LOST}::test_a_delivery_that_takes_too_long_is_stopped_and_counts_as_far_as_it_came",),
        (
            "devices/energy_device/device.py",
            "if known is not None and known.state is State.DELIVERING:",
            "if known is None:",
        ),
    ),
    mutant(
        "a_command_is_acknowledged_only_if_it_brought_an_answer_worth_sending",
        "a broker that keeps Receive Maximum does not fall silent",
        ("tests/integration/test_brokers.py::test_a_plug_in_that_raises_does_not_make_a_device_deaf_on_mosquitto",),
        (
            "devices/energy_device/agent.py",
            "if control is not None and self._client is not None:",
            'if control is not None and b"locked" in b"".join(r.payload for r in reports):',
        ),
    ),
    mutant(
        "not_a_number_is_taken_for_energy",
        "whatever is plugged in returns, nothing is promised blindly",
        ("tests/unit/test_hardware.py::test_a_lock_is_rejected_with_a_reason_until_the_plug_in_works_again",),
        (
            "devices/energy_device/hardware.py",
            "if isinstance(value, bool) or not isinstance(value, Real | Decimal)",
            "if not isinstance(value, Real | Decimal)",
        ),
    ),
    mutant(
        "what_a_status_does_not_say_is_taken_for_nothing",
        "absent is not empty",
        (f"{LEFT_OUT}::test_a_status_without_locks_loses_no_reservation_and_settles_no_unlock",),
        (
            f"{PACKAGE}/messages/reports.py",
            'locks=reader.if_sound("locks", _ids),',
            'locks=reader.if_sound("locks", _ids) or (),',
        ),
    ),
    mutant(
        "two_registrations_under_one_key",
        "one that is asked for again gives way",
        (f"{_REGISTERING}::test_a_registration_that_is_asked_for_again_meanwhile_gives_way",),
        (REGISTER, "            devices.give_way(conn, given_way)\n", "            pass\n"),
        (REGISTER, "        tidy_device(database, registry, given_way)\n", "        pass\n"),
    ),
    mutant(
        "a_private_key_under_a_key_of_the_client",
        "no secret is stored",
        (f"{_REGISTERING}::test_a_private_key_is_given_once",),
        (
            REGISTER,
            "        if asked.csr is None:\n            _keep",
            '        if asked.csr == "":\n            _keep',
        ),
    ),
    mutant(
        "the_end_of_an_old_session_puts_a_device_offline",
        "only the session that is known ends",
        LIFE,
        (
            f"{PACKAGE}/postgres/device_reports.py",
            "AND (%(connected)s OR presence_session IS NULL OR presence_session = %(session)s)",
            "AND (%(connected)s OR true)",
        ),
    ),
    mutant(
        "presence_that_was_overtaken_counts",
        "events of the broker come out of order",
        (f"{MESSAGES}::test_messages_that_overtake_each_other_end_where_they_would_have_ended",),
        (
            f"{PACKAGE}/postgres/device_reports.py",
            "AND (presence_ms IS NULL OR presence_ms <= %(at_ms)s)",
            "AND (presence_ms IS NULL OR presence_ms > 0)",
        ),
    ),
)
