"""The fuzz target: random inputs for the parsers, far more of them than a run of the tests has time for.

``make fuzz`` runs it until it is stopped; docs/fuzzing.md says what is held and how much was run. Every input follows
from a seed and its number, so any of them can be made again. ``pieces`` and ``requests`` make the input of the HTTP
parsers, ``mutate`` breaks it, ``reading`` reads it, ``checks`` and ``by_h11`` say what must hold; ``frames`` and
``proxies`` do the same for WebSocket and for what proxies say; ``run`` counts.
"""
