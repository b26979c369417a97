"""`make demo`: the loop learning, on texts written for this project.

`stream.jsonl` holds the texts as they come in, `labels.jsonl` apart from them what a reader would say.
"""
