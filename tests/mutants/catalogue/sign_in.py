"""Mutants of accounts, sessions and the API's edge."""

from typing import Final

from tests.mutants.catalogue.mutant import ADMIN, PACKAGE, mutant

_AUTH: Final = "tests/integration/test_auth_api.py"
_SIGN_IN: Final = "tests/integration/test_sign_in.py"
_HTTP: Final = "tests/integration/test_http.py"

MUTANTS: Final = (
    mutant(
        "a_token_that_anybody_signed",
        "a token counts with the signature of one of our keys",
        ("tests/unit/test_tokens.py::test_a_token_that_is_not_exactly_ours_is_refused",),
        (f"{PACKAGE}/domain/tokens.py", '"strict_aud": True,', '"strict_aud": True, "verify_signature": False,'),
    ),
    mutant(
        "an_old_refresh_token_goes_on",
        "a refresh token is rotated at each use",
        (f"{_AUTH}::test_an_old_refresh_token_ends_the_session_for_whoever_holds_it",),
        (
            f"{PACKAGE}/postgres/refresh_tokens.py",
            "WHERE id = %s AND token_hash = %s AND revoked_at IS NULL AND expires_at > now()",
            "WHERE id = %s AND (token_hash = %s OR true) AND revoked_at IS NULL AND expires_at > now()",
        ),
    ),
    mutant(
        "a_stolen_session_goes_on",
        "a token that is used again ends the session for both",
        (f"{_AUTH}::test_an_old_refresh_token_ends_the_session_for_whoever_holds_it",),
        (f"{PACKAGE}/usecases/refresh_session.py", "        refresh_tokens.revoke(conn, given.session_id)\n", ""),
    ),
    mutant(
        "a_lost_answer_to_a_refresh_is_lost",
        "a token gives its successor again until that one is used",
        (f"{_AUTH}::test_whoever_lost_the_answer_to_a_refresh_has_the_successor_again_for_ten_minutes",),
        (f"{PACKAGE}/domain/sessions.py", "HAD_AGAIN_S: Final = 600", "HAD_AGAIN_S: Final = 10"),
    ),
    mutant(
        "a_used_successor_can_be_had_again",
        "a token from two rotations ago ends the session",
        (f"{_AUTH}::test_a_token_from_two_rotations_ago_ends_the_session_even_at_once",),
        (
            f"{PACKAGE}/postgres/refresh_tokens.py",
            "WHEN previous_hash = %s AND rotated_at >",
            "WHEN (previous_hash = %s OR true) AND rotated_at >",
        ),
    ),
    mutant(
        "a_signature_signs_in_twice",
        "a challenge is used once",
        (f"{_AUTH}::test_a_signature_signs_in_once",),
        (
            f"{PACKAGE}/postgres/challenges.py",
            '"DELETE FROM challenges WHERE nonce = %s AND expires_at > now() RETURNING nonce"',
            '"SELECT nonce FROM challenges WHERE nonce = %s AND expires_at > now()"',
        ),
    ),
    mutant(
        "a_challenge_of_another_service_counts",
        "a text counts that this service would write",
        (f"{_SIGN_IN}::test_a_challenge_of_another_service_is_none_here",),
        (f"{PACKAGE}/usecases/answer_challenge.py", "challenge.message == asked.message\n            and ", ""),
    ),
    mutant(
        "strangers_challenges_come_first",
        "nobody's challenges push another's out",
        (f"{_SIGN_IN}::test_challenges_that_strangers_ask_for_lock_nobody_out",),
        (f"{PACKAGE}/postgres/challenges.py", "ORDER BY (source = %s) DESC,", "ORDER BY (source <> %s) DESC,"),
    ),
    mutant(
        "who_logged_out_is_still_in",
        "an access token ends with its session",
        (f"{_SIGN_IN}::test_an_access_token_ends_with_its_session_in_every_function",),
        (
            f"{PACKAGE}/postgres/admission.py",
            "(SELECT revoked_at IS NULL AND expires_at > now() FROM",
            "(SELECT expires_at > now() FROM",
        ),
    ),
    mutant(
        "a_token_has_many_spellings",
        "a token is what we have written",
        ("tests/unit/test_tokens.py::test_a_token_has_one_spelling",),
        (f"{PACKAGE}/domain/tokens.py", " or not _SPELLING.fullmatch(token)", ""),
    ),
    mutant(
        "a_token_names_its_algorithm",
        "the algorithm is pinned",
        ("tests/unit/test_tokens.py::test_another_algorithm_is_refused_though_the_key_is_right",),
        (f"{PACKAGE}/domain/tokens.py", "algorithms=[ALGORITHM],", 'algorithms=["HS256", "HS384", "HS512", "none"],'),
        # Both, or the other alone would do: a signature is as long as the algorithm makes it.
        (f"{PACKAGE}/domain/tokens.py", "[\\w-]{42}[AEIMQUYcgkosw048]", "[\\w-]+"),
    ),
    mutant(
        "a_user_may_ask_for_ever",
        "each user is counted, whatever address he asks from",
        (f"{_HTTP}::test_a_user_may_ask_so_often_from_wherever",),
        (
            f"{PACKAGE}/api/edge.py",
            'limits[f"user {asking.user_id}"] = self._settings.user_limit_per_minute',
            'limits[f"user {asking.user_id}"] = 10**9',
        ),
    ),
    mutant(
        "a_forged_token_uses_up_anothers_share",
        "a user is counted by a token of ours",
        (f"{_HTTP}::test_nobody_uses_up_what_another_user_may_ask",),
        (
            f"{PACKAGE}/domain/tokens.py",
            '"strict_aud": True,\n        },\n    )\n    session_id',
            '"strict_aud": True,\n            "verify_signature": False,\n        },\n    )\n    session_id',
        ),
    ),
    mutant(
        "a_network_of_ipv6_is_many_sources",
        "who has one of its addresses has them all",
        (f"{_HTTP}::test_a_source_of_ipv6_is_the_network_that_one_subscriber_has",),
        (f"{PACKAGE}/api/exchange.py", "address[:8] + bytes(8)", "address"),
    ),
    mutant(
        "a_body_may_name_a_price_twice",
        "of two prices nobody knows which one was meant",
        (f"{_HTTP}::test_a_body_that_is_not_as_it_should_be_is_refused",),
        (f"{PACKAGE}/api/edge.py", "        if name in names:\n", "        if name in names and False:\n"),
    ),
    mutant(
        "a_port_makes_another_source",
        "a source is an address, however its port is told",
        (f"{_HTTP}::test_whatever_is_said_of_a_source_the_request_is_served_and_counted",),
        (f"{PACKAGE}/api/exchange.py", '    elif first.count(":") == 1:\n', '    elif first.count(":") == 0:\n'),
    ),
    mutant(
        "signatures_may_be_guessed_as_fast_as_prices_are_read",
        "what signs in has a stricter limit",
        (f"{_HTTP}::test_signing_in_has_a_limit_of_its_own_which_all_its_routes_share",),
        (
            f"{PACKAGE}/api/edge.py",
            'limits[f"sign-in {source}"] = sign_in_limit',
            'limits[f"sign-in {source}"] = 10**9',
        ),
    ),
    mutant(
        "anybody_is_an_operator",
        "operators are those that the configuration names",
        (f"{ADMIN}::test_an_operators_route_is_nobody_elses",),
        (f"{PACKAGE}/usecases/name_operator.py", "if user.wallet_address not in wallets:", "if not wallets:"),
    ),
    mutant(
        "an_order_slips_in_while_its_user_is_refused",
        "whoever changes a user's status holds the book",
        (f"{ADMIN}::test_an_order_that_is_placed_while_its_user_is_refused_is_not_matched",),
        (f"{PACKAGE}/usecases/set_kyc_status.py", "        book.hold(conn)\n", ""),
    ),
)
