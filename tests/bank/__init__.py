"""Money moved between accounts by many clients at once, with cancels and lost connections; see `Bank.run`."""
