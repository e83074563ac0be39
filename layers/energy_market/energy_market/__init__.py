"""The energy market: what every function shares. `functions -> usecases -> postgres, evm, devices -> domain`."""
