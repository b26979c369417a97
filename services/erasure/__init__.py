"""Erasure on request: a text with its copies, or an annotator; kept out ever after, and what they taught unlearned.

A text goes from PostgreSQL and Valkey at once, from the embedded log at once, from Kafka with the retention of the
topics that carry texts. Ids, probabilities and labels stay: they are the record of what a model said and learned. Of an
annotator the name goes, and what they wrote beside their labels; the labels stay under a pseudonym that is nobody's,
and teach no more.
"""
