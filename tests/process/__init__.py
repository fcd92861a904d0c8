"""Tests that start real daemons and talk to them over real sockets."""
