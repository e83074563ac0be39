"""The parts put together, the contracts and the template deployed on them: a running market."""
