"""The parts of soak.py: a load that always has requests in flight, the daemon under it, and what is done to that."""
