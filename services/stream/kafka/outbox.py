"""Rows and events in one effect: the sinks' positions, the outbox, and the relay that publishes it."""
