"""The parts of ``hostile.py``: a daemon, well-behaved clients, and crowds of slow and hostile ones."""
