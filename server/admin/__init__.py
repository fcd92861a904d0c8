"""The admin plane: health checks, metrics, status and a page, in a process of its own that never has the
application.
"""
