"""The faults, by what fails."""
