"""`make demo`: the loop learning, on texts written for this project.

`stream.jsonl` holds the texts as they come in; `labels.jsonl`, apart from them and line by line, what a reader would
say and what must become of each. Some lines of the stream are broken, as a stranger's are.
"""
