"""Model providers, through their official SDKs."""
