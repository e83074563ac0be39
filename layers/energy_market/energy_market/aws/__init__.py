"""Services that only AWS has: the registry of devices, dead-letter queues, deploys."""
