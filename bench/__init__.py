"""How fast it is: `make bench` measures the market beside its floors and its peers, and says what is reached."""
