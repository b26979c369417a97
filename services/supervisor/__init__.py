"""Everything on one machine: the embedded servers and the services, started, watched and stopped together."""
