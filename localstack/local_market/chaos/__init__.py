"""What goes wrong in `make chaos`: the kinds of faults, their schedule, links that can fail."""
