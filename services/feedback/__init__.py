"""People's words: routed to the trainer (`service`), weighed by whom to believe (`trust`), set aside where a person
should look first (`quarantine`). `assess` does both over the stored rows; `gold` are the questions whose answer is
known."""
