"""The simulated community: homes with wallets, batteries and devices, which use the public API only."""
