"""texts.raw → texts.clean | texts.rejected.

`pipeline` is the step on one text, in a straight line through pure functions of one file each; `worker` runs it on
batches; `duplicates` and `near` are the only files that talk to servers.
"""
