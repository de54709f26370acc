"""The auditor at work: histories are read, and what they tell is appended to the chains."""
