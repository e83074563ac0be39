"""The ledger: an EVM chain, spoken to by JSON-RPC. Only `rpc` may be imported without the EVM libraries."""
