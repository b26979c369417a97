"""Lineage: from a prediction back to the words that its model learned from."""
