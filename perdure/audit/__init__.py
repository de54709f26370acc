"""The audit: who did what, when and by which rule, as a hash chain for each organisation.

Nothing is written to it by a run. Its records follow from Temporal's histories, which have every fact durably.
"""
