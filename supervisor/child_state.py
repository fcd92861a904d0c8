"""The life of one child as the master sees it: a table of states and events, the only authority on what may follow.

Promises: every pair of state and event has one meaning, written below; a pair that cannot happen raises
IllegalTransition and changes nothing. Refuses to know time, processes and sockets: it is data and one function.

Events come from three sides, and they cross each other on the way. What a child says (`BECAME_READY`,
`BOOT_FAILED`, `DRAINED`) may have been said before it read what the master sent (`DRAIN_SENT`, `STOP_SENT`,
`KILL_SENT`); such a late word leaves the state as it is. What the kernel says (`EXITED`) is final and may come
at any time.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final


class State(enum.Enum):
    """Where a child is in its life; the value is the word for log lines."""

    NEW = "new"  # decided upon, no process yet
    BOOTING = "booting"  # the process exists and has not said how it went
    READY = "ready"  # it serves
    FAILED = "failed"  # it has said that it cannot boot, and is about to exit
    DRAINING = "draining"  # it finishes what it has received
    STOPPING = "stopping"  # it was told to give up what is in flight
    KILLED = "killed"  # SIGKILL is on its way
    DEAD = "dead"  # reaped


class Event(enum.Enum):
    """What can happen to a child."""

    SPAWNED = "spawned"  # fork or exec worked
    SPAWN_FAILED = "spawn failed"  # no process came to be (ENOMEM, EAGAIN, EMFILE)
    BECAME_READY = "became ready"  # message Ready
    BOOT_FAILED = "boot failed"  # message BootFailed
    DRAINED = "drained"  # message Drained: after our Drain or Stop, or after a SIGTERM from somebody else
    DRAIN_SENT = "drain sent"
    STOP_SENT = "stop sent"
    KILL_SENT = "kill sent"
    EXITED = "exited"  # the kernel handed us its exit status


class IllegalTransition(Exception):
    """This event cannot happen to a child in this state: a mistake of ours, or a child that speaks out of turn."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"a child that is {state.value} cannot see '{event.value}'")
        self.state = state
        self.event = event


_TABLE: Final[Mapping[State, Mapping[Event, State]]] = MappingProxyType(
    {
        State.NEW: {
            Event.SPAWNED: State.BOOTING,
            Event.SPAWN_FAILED: State.DEAD,
        },
        State.BOOTING: {
            Event.BECAME_READY: State.READY,
            Event.BOOT_FAILED: State.FAILED,
            Event.DRAINED: State.DRAINING,
            Event.DRAIN_SENT: State.DRAINING,
            Event.STOP_SENT: State.STOPPING,
            Event.KILL_SENT: State.KILLED,
            Event.EXITED: State.DEAD,
        },
        State.READY: {
            Event.DRAINED: State.DRAINING,
            Event.DRAIN_SENT: State.DRAINING,
            Event.STOP_SENT: State.STOPPING,
            Event.KILL_SENT: State.KILLED,
            Event.EXITED: State.DEAD,
        },
        State.FAILED: {
            Event.DRAINED: State.FAILED,
            Event.STOP_SENT: State.STOPPING,
            Event.KILL_SENT: State.KILLED,
            Event.EXITED: State.DEAD,
        },
        State.DRAINING: {
            Event.BECAME_READY: State.DRAINING,
            Event.BOOT_FAILED: State.DRAINING,
            Event.DRAINED: State.DRAINING,
            Event.DRAIN_SENT: State.DRAINING,  # drained for another generation, and now the whole server stops
            Event.STOP_SENT: State.STOPPING,
            Event.KILL_SENT: State.KILLED,
            Event.EXITED: State.DEAD,
        },
        State.STOPPING: {
            Event.BECAME_READY: State.STOPPING,
            Event.BOOT_FAILED: State.STOPPING,
            Event.DRAINED: State.STOPPING,
            Event.KILL_SENT: State.KILLED,
            Event.EXITED: State.DEAD,
        },
        State.KILLED: {
            Event.BECAME_READY: State.KILLED,
            Event.BOOT_FAILED: State.KILLED,
            Event.DRAINED: State.KILLED,
            Event.EXITED: State.DEAD,
        },
        State.DEAD: {},
    }
)


def next_state(state: State, event: Event) -> State:
    """The state that `event` leads to from `state`. Raises IllegalTransition when the table has no such cell."""
    try:
        return _TABLE[state][event]
    except KeyError:
        raise IllegalTransition(state, event) from None
