"""A user's package for crash tests: an agent whose tools' effects are counted in a ledger outside."""
