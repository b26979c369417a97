"""Sentiment per ticker and minute: a pure window module, its rows, and one host for each bus."""
