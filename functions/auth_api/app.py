"""Sign-in by wallet, sessions, and the caller's own profile."""

from typing import Annotated, ClassVar, Self

from chalice.app import Response
from msgspec import Meta, Struct

from energy_market import config
from energy_market.api import answers
from energy_market.api.edge import Api
from energy_market.api.fields import Location, WalletAddress
from energy_market.database import Database
from energy_market.domain.tokens import ACCESS_TOKEN_LIFE
from energy_market.domain.wallets import parse_signature
from energy_market.usecases.answer_challenge import Proof
from energy_market.usecases.log_in import Session, log_in
from energy_market.usecases.log_out import log_out
from energy_market.usecases.open_challenge import open_challenge
from energy_market.usecases.read_profile import read_profile
from energy_market.usecases.refresh_session import refresh_session
from energy_market.usecases.sign_up import sign_up
from energy_market.usecases.update_profile import update_profile

settings = config.http_settings()
sign_in = config.sign_in_settings()
database = Database(config.database_url())
app = Api("auth_api", settings=settings, database=database)


class Signature(bytes):
    """65 bytes: r, s, v."""

    __slots__ = ()
    EXPECTED: ClassVar[str] = "0x and 130 hexadecimal digits (65 bytes)"
    CODE: ClassVar[str] = "malformed_signature"

    @classmethod
    def parse(cls, value: object) -> Self:
        """Parse 0x and 130 hexadecimal digits."""
        return cls(parse_signature(value))


class ChallengeRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The wallet for which a challenge is requested."""

    wallet_address: WalletAddress


class SignInRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """A signed challenge; `nonce` names it, if several are open."""

    wallet_address: WalletAddress
    signature: Signature
    nonce: Annotated[str, Meta(pattern=r"^[0-9A-Za-z]{8,64}\Z", description="8 to 64 letters and digits")] | None = None


class RefreshRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The refresh token of a session; a malformed text is refused like an unknown token."""

    refresh_token: str


class ProfileRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The data that users may change of themselves."""

    location: Location | None


@app.route("/api/v1/auth/challenge", methods=["POST"], sign_in_limit=sign_in.limit_per_minute)
def challenge() -> Response:
    """A message to sign."""
    request = app.read(ChallengeRequest)
    with database.transaction() as conn:
        opened = open_challenge(conn, wallet_address=request.wallet_address, source=app.source(), settings=sign_in)
    return app.present(
        {"message": opened.message, "nonce": opened.nonce, "expires_at": opened.expires_at},
    )


@app.route("/api/v1/auth/signup", methods=["POST"], sign_in_limit=sign_in.limit_per_minute)
def signup() -> Response:
    """Register with a signed challenge."""
    proof = _proof()
    with database.transaction() as conn:
        user = sign_up(conn, proof, settings=sign_in)
    app.note_user(user.id)
    return app.present(answers.user(user), status=201)


@app.route("/api/v1/auth/login", methods=["POST"], sign_in_limit=sign_in.limit_per_minute)
def login() -> Response:
    """Begin a session with a signed challenge."""
    proof = _proof()
    with database.transaction() as conn:
        session = log_in(conn, proof, settings=sign_in, keys=settings.jwt_keys)
    return _present(session)


@app.route("/api/v1/auth/refresh", methods=["POST"])
def refresh() -> Response:
    """Continue a session."""
    request = app.read(RefreshRequest)
    return _present(refresh_session(database, refresh_token=request.refresh_token, keys=settings.jwt_keys))


@app.route("/api/v1/auth/logout", methods=["POST"])
def logout() -> Response:
    """End a session. This needs no access token, since that may have expired."""
    request = app.read(RefreshRequest)
    with database.transaction() as conn:
        log_out(conn, refresh_token=request.refresh_token)
    return app.present(None, status=204)


@app.route("/api/v1/auth/me", methods=["GET"])
def me() -> Response:
    """The caller."""
    caller = app.caller()
    with database.transaction() as conn:
        return app.present(answers.user(read_profile(conn, user_id=caller.user_id)))


@app.route("/api/v1/auth/me", methods=["PATCH"])
def change_me() -> Response:
    """Change the caller's location."""
    caller = app.caller()
    request = app.read(ProfileRequest)
    with database.transaction() as conn:
        user = update_profile(conn, user_id=caller.user_id, location=request.location)
    return app.present(answers.user(user))


def _proof() -> Proof:
    request = app.read(SignInRequest)
    return Proof(
        wallet_address=request.wallet_address,
        signature=request.signature,
        nonce=request.nonce,
        source=app.source(),
    )


def _present(session: Session) -> Response:
    app.note_user(session.user_id)
    return app.present(
        {
            "access_token": session.access_token,
            "refresh_token": session.refresh_token,
            "token_type": "Bearer",
            "expires_in": int(ACCESS_TOKEN_LIFE.total_seconds()),
        }
    )
