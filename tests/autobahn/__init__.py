"""The Autobahn TestSuite against serverd: ``run`` is the command, ``suite`` what it and a pytest test share."""
