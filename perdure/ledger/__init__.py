"""The ledger of an organisation: what its runs have spent and reserved, and how many are open.

One workflow an organisation, spoken to by signals. What it decides is a pure function of what it knows (`book`); what
is said to it and by it is in `contracts`.
"""
