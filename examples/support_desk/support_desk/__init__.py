"""A support agent over a small shop: an example of a package that Perdure serves."""
