"""The parts of run.py: machine (cores, versions), servers (what is measured), load (wrk), report (tables)."""
