"""Settings of the market and of its surroundings, as `config` reads them from the environment."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Settings that every API function needs."""

    rate_limit_per_minute: int  # per source address
    user_limit_per_minute: int  # per user, over all sources
    allowed_origins: tuple[str, ...]
    jwt_keys: dict[str, str] = field(repr=False)  # kid -> secret; the first signs, all verify


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInSettings:
    """The service that a wallet's owner signs in to (EIP-4361 domain, URI and chain id)."""

    domain: str
    uri: str
    chain_id: int
    limit_per_minute: int  # per source address, over all routes that sign in together


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSettings:
    """The chain and the contracts that trades are settled on."""

    chain_id: int
    rpc_url: str = field(repr=False)  # it may hold an access key
    settlement_contract: str
    token_contract: str
    token_decimals: int  # expected value only: amounts use what the token itself states


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementSettings:
    """How the operator settles."""

    max_batch: int
    confirmations: int
    finality_blocks: int
    delivery_window_s: int
    min_priority_fee_wei: int  # per unit of gas
    max_fee_wei: int  # per unit of gas


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterQueue:
    """A queue of messages that failed for good, and the queue that they came from."""

    url: str
    source_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSettings:
    """Data that a device is given at its registration."""

    policy: str
    broker: str  # host:port
    ca_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """The account that settles."""

    private_key: str = field(repr=False)
