"""The truth about the client when a proxy stands in front.

``trust`` says who is a proxy, ``nodes`` and ``forwarded`` read what proxies write, ``headers`` decides what it means
for a request; ``protocol`` reads the header of the PROXY protocol, ``opening`` takes it from a connection.
"""
