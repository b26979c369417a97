"""Event schemas (generated from `services/stream/events.py`) and SQL migrations."""
