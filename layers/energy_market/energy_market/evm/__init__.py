"""The ledger: an EVM chain, accessed by JSON-RPC. Only `rpc` may be imported without the EVM libraries."""
