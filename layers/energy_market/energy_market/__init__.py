"""The energy market: code that all functions share. `functions -> usecases -> postgres, evm, messages -> domain`."""
