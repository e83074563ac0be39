"""What only AWS does: its registry of devices, its dead-letter queues, its deploys."""
