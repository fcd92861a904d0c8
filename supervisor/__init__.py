"""The master's side of serverd: the processes, the listening sockets, the signals. Nothing here speaks HTTP.

`master.run` is the way in; what is decided and why is in policy.py, which acts on nothing.
"""
