"""The applications that are measured, beside examples/hello; each does as little as its scenario allows."""
