"""The local AWS: MiniStack, or LocalStack's open-source core."""
