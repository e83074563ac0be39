"""Ways of a chain rather than of a node: how it makes blocks, and how large they are."""

from local_market.faulty_node.way import Way, way


@way
class SmallBlocks(Way):
    """Private chains and old Gnosis: 2,000,000 gas a block; what is too big for a block cannot be estimated."""

    anytime = False
    block_gas = 2_000_000
    trades = 40


@way
class NoEmptyBlocks(Way):
    """Private chains with empty blocks switched off, and rollups at night: a block only for a transaction."""

    anytime = False
    makes_empty_blocks = False


@way
class DeepFinality(Way):
    """Polygon before its milestones, and careful operators: nothing is final before 200 blocks."""

    anytime = False
    finality_blocks = 200


@way
class GasCapOfOsaka(Way):
    """Chains since Osaka: 2^24 gas a transaction, whatever a block takes."""

    anytime = False
    anvil = ("--hardfork", "osaka", "--enable-tx-gas-limit")
