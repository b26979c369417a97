"""The review queue: what a person should look at next, and who is looking at it.

`ranking` orders candidates and mixes them, as pure functions; `candidates` reads them from the database, `gold` makes
questions whose answer is known, `leases` hands texts out so that two people don't do the same work.
"""
