"""Mutants of devices, their certificates, reports and deliveries."""

from typing import Final

from tests.mutants.catalogue.mutant import (
    FED_TESTS,
    LEFT_OUT,
    LIFE,
    LOCKS,
    LOST,
    MESSAGES,
    PACKAGE,
    SILENCE,
    mutant,
)

DEVICES: Final = f"{PACKAGE}/postgres/devices.py"
CERTIFICATES: Final = f"{PACKAGE}/postgres/certificates.py"
FED: Final = "infra/migrations/0016_what_was_fed_is_counted_once.sql"
TELEMETRY: Final = f"{PACKAGE}/usecases/record_telemetry.py"
REGISTER: Final = f"{PACKAGE}/usecases/register_device.py"
_REGISTERING: Final = "tests/integration/test_iot_api.py"
_CERTIFICATES: Final = "tests/integration/test_certificates.py"

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
        (f"{PACKAGE}/devices.py", "if message.client_id != device_id:", "if not message.client_id:"),
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
            f"{PACKAGE}/device_registry.py",
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
            "if owner_id is not None and trades.owed_by_device(conn, device_id):",
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
        (TELEMETRY, "        trades.owe_unlock(conn, device_id, status.locks, seq=status.seq)\n", ""),
    ),
    mutant(
        "old_statuses_count",
        "a status that was overtaken says what is not so any more",
        (f"{LOCKS}::test_an_old_status_is_dropped",),
        (DEVICES, "ELSE status_seq IS NULL OR status_seq < %(seq)s\n", "ELSE true\n"),
    ),
    mutant(
        "what_was_fed_stays_promised",
        "what was fed before a status is in its available energy no more, and is not promised any more",
        (
            f"{FED_TESTS}::test_what_was_fed_before_a_status_is_not_promised_any_more",
            f"{FED_TESTS}::test_no_order_of_messages_counts_anything_twice",
        ),
        (
            TELEMETRY,
            "    if status.available_wh is not None:\n        trades.count_fed",
            "    if not status:\n        trades.count_fed",
        ),
    ),
    mutant(
        "energy_that_was_fed_makes_nothing_new",
        "a report that comes late leaves its device more to give",
        (f"{FED_TESTS}::test_what_is_free_in_the_middle_of_a_delivery_is_sold",),
        (FED, "\n          OR NEW.fed_wh > OLD.fed_wh", ""),
    ),
    mutant(
        "a_count_that_fell_behind_is_never_heard",
        "a device that forgot is heard again",
        (f"{LOST}::test_a_device_whose_count_is_behind_is_heard_again_after_ten_minutes",),
        (DEVICES, "OR status_heard_at < ", "OR status_heard_at > "),
    ),
    mutant(
        "a_device_feeds_on_when_it_is_told_to_stop",
        "what the market waits for no longer is not delivered",
        (f"{LOST}::test_a_delivery_that_takes_too_long_is_stopped_and_counts_as_far_as_it_came",),
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
            f"{PACKAGE}/device_reports.py",
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
            DEVICES,
            "AND (%(connected)s OR presence_session IS NULL OR presence_session = %(session)s)",
            "AND (%(connected)s OR true)",
        ),
    ),
    mutant(
        "presence_that_was_overtaken_counts",
        "events of the broker come out of order",
        (f"{MESSAGES}::test_messages_that_overtake_each_other_end_where_they_would_have_ended",),
        (
            DEVICES,
            "AND (presence_ms IS NULL OR presence_ms <= %(at_ms)s)",
            "AND (presence_ms IS NULL OR presence_ms > 0)",
        ),
    ),
)
