"""Settings of the market and of its surroundings, as `config` reads them from the environment."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """What every API function needs."""

    rate_limit_per_minute: int  # of one source
    user_limit_per_minute: int  # of one user, from wherever
    allowed_origins: tuple[str, ...]
    jwt_keys: dict[str, str] = field(repr=False)  # kid -> secret; the first signs, all verify


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInSettings:
    """Who a wallet's owner signs in to (EIP-4361 domain, URI and chain id)."""

    domain: str
    uri: str
    chain_id: int
    limit_per_minute: int  # of one source, of all routes that sign in together


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSettings:
    """The chain and the contracts that trades are settled on."""

    chain_id: int
    rpc_url: str = field(repr=False)  # it may hold an access key
    settlement_contract: str
    token_contract: str
    token_decimals: int  # expected: amounts go by what the token itself says


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementSettings:
    """How the operator settles."""

    max_batch: int
    confirmations: int
    finality_blocks: int
    delivery_window_s: int
    min_priority_fee_wei: int  # for each gas
    max_fee_wei: int  # for each gas


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterQueue:
    """A queue of what failed for good, and the one that it came from."""

    url: str
    source_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSettings:
    """What a device is given at its registration."""

    policy: str
    broker: str  # host:port
    ca_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """The account that settles."""

    private_key: str = field(repr=False)
