"""The whole market on one machine: started, lived in, disturbed and watched (../README.md names the rooms)."""
