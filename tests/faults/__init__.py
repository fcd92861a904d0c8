"""System calls that fail on request, and the matrix of what serverd does then (docs/faults.md)."""
