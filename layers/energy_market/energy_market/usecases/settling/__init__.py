"""What a sweep of the settlement does: follow what was sent, give up what cannot be paid, pay what is locked."""
