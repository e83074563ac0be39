"""PostgreSQL and Anvil, and how any part is started and stopped."""
