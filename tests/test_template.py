"""`workers.preload`, decided and bookkept: the table of a template, the policy's rules, what is said and refused."""

import os
import random
import socket
import subprocess
import threading
import time
from dataclasses import replace
from typing import override

import pytest

from serverd.config import ServerConfig
from serverd.server import template as body
from serverd.server.arena import NO_PAPERS, Papers, Region
from serverd.server.channel import Channel, ChannelError, Fork, Stop
from serverd.supervisor import actions, policy
from serverd.supervisor.actions import Action
from serverd.supervisor.child_state import Event as ChildEvent
from serverd.supervisor.child_state import IllegalTransition, State
from serverd.supervisor.nursery import claim
from serverd.supervisor.roster import BootFailure, Child, Shutdown, Urgency
from serverd.supervisor.template import Event, OutOfTurn, Phase, Template, next_phase
from tests.support.world import World, configuration

NEXT = {
    (Phase.IMPORTING, Event.IMPORTED): Phase.READY,
    (Phase.IMPORTING, Event.CANNOT): Phase.FAILED,
    (Phase.IMPORTING, Event.KILL_SENT): Phase.KILLED,
    (Phase.READY, Event.ASKED): Phase.FORKING,
    (Phase.READY, Event.KILL_SENT): Phase.KILLED,
    (Phase.FORKING, Event.ANSWERED): Phase.READY,
    (Phase.FORKING, Event.KILL_SENT): Phase.KILLED,
    (Phase.FAILED, Event.KILL_SENT): Phase.KILLED,
    (Phase.KILLED, Event.IMPORTED): Phase.KILLED,
    (Phase.KILLED, Event.CANNOT): Phase.KILLED,
    (Phase.KILLED, Event.ANSWERED): Phase.KILLED,
}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", Event)
def test_every_cell_of_the_table(phase: Phase, event: Event) -> None:
    if (phase, event) in NEXT:
        assert next_phase(phase, event) is NEXT[phase, event]
        return
    template = Template(1, 0.0, 0.0, phase)
    with pytest.raises(OutOfTurn, match=f"a template that is {phase.value} cannot see '{event.value}'"):
        template.apply(event, 5.0)
    assert (template.phase, template.since, template.cannot_import) == (phase, 0.0, False)


# The policy


def preloading(processes: int = 2, *, boot: float = 60.0) -> ServerConfig:
    config = configuration(processes, boot=boot)
    return replace(config, workers=replace(config.workers, preload=True))


class Hatchery(World):
    """A world with templates, which do what the test says."""

    @override
    def _act(self, action: Action) -> None:
        match action:
            case actions.StartTemplate(generation):
                self.roster.templates.append(Template(generation.number, self.now, self.now))
            case actions.KillTemplate(template, reason):
                template.not_needed, template.killed_because = not reason, reason
                template.apply(Event.KILL_SENT, self.now)
            case _:
                super()._act(action)

    @override
    def _start(self, child: Child) -> None:
        generation = self.roster.generation(child.generation)
        assert generation is not None
        template = self.roster.template(generation)
        assert template is not None
        template.apply(Event.ASKED, self.now)
        self.roster.children.append(child)

    def phase(self, generation: int) -> Phase:
        return self.template(generation).phase

    def template(self, generation: int) -> Template:
        (found,) = (item for item in self.roster.templates if item.generation == generation)
        return found

    def imports(self, generation: int = 1) -> None:
        template = self.template(generation)
        template.apply(Event.IMPORTED, self.now)
        living = self.roster.generation(generation)
        assert living is not None
        living.imported_in = self.now - template.began
        self.settle()

    def forks(self, generation: int = 1) -> Child:
        """The template answers, and the child that was asked for is a process."""
        (child,) = (
            item for item in self.roster.children if (item.generation, item.state) == (generation, State.NEW)
        )
        self.template(generation).apply(Event.ANSWERED, self.now)
        child.apply(ChildEvent.SPAWNED, self.now)
        self.settle()
        return child

    def ends(self, template: Template) -> None:
        failure = BootFailure(3, "template ended")
        unborn = [
            child
            for child in self.roster.children
            if (child.generation, child.state) == (template.generation, State.NEW)
        ]
        self.roster.template_ended(template, failure, self.now)
        for child in unborn:
            self.roster.spawn_failed(child, self.now)
        self.settle()

    def serves(self, generation: int = 1) -> None:
        """From the import to the promotion."""
        self.imports(generation)
        for _ in range(self.next_config.workers.process_count()):
            self.forks(generation)
        self.all_ready()
        assert self.current().number == generation


def test_children_come_from_the_template_alone_one_after_the_other() -> None:
    world = Hatchery(preloading(3))
    assert not world.roster.children, "nothing to fork from yet"
    world.imports()
    assert world.states() == {"worker 0 g1": "new"}
    world.forks()
    assert world.states() == {"worker 0 g1": "booting", "worker 1 g1": "new"}
    world.forks()
    world.forks()
    world.all_ready()
    assert world.current().number == 1
    assert world.template(1).phase is Phase.READY, "it stays for those that will have to be replaced"


def test_a_child_that_has_crashed_comes_from_the_same_template() -> None:
    world = Hatchery(preloading())
    world.serves()
    world.exits(world.child(0), -11)
    world.pass_time(policy.BACKOFF_FIRST)
    assert world.forks().index == 0
    assert len(world.actions(actions.StartTemplate)) == 1


def test_a_new_generation_has_a_new_template_and_the_old_one_goes_with_its_generation() -> None:
    world = Hatchery(preloading())
    world.serves()
    old = world.template(1)
    world.roster.ask_reload("SIGHUP", newer_code=False)
    world.settle()
    assert world.template(2).phase is Phase.IMPORTING
    assert world.phase(1) is Phase.READY, "the old generation serves, and may need a child"
    world.serves(2)
    assert old.phase is Phase.KILLED
    assert old.not_needed


def test_a_template_that_dies_is_replaced_before_a_child_is_needed() -> None:
    world = Hatchery(preloading())
    world.serves()
    world.pass_time(5.0)
    world.ends(world.template(1))
    assert not world.roster.templates
    world.pass_time(policy.BACKOFF_FIRST)
    assert world.template(1).phase is Phase.IMPORTING
    assert {child.state for child in world.roster.children} == {State.READY}, "nobody is disturbed"
    world.ends(world.template(1))
    assert world.deadline() == pytest.approx(2 * policy.BACKOFF_FIRST), (
        "the second time in a row waits longer"
    )


def test_a_child_that_was_asked_of_a_template_that_died_is_tried_again() -> None:
    world = Hatchery(preloading(1))
    world.serves()
    world.exits(world.child(0), -9)
    world.pass_time(policy.BACKOFF_FIRST)
    assert world.states() == {"worker 0 g1": "new"}
    world.ends(world.template(1))
    assert world.states() == {}
    world.pass_time(1.0)
    world.imports()
    assert world.forks().index == 0


def test_a_template_that_cannot_import_is_the_failure_of_its_generation() -> None:
    world = Hatchery(preloading())
    template = world.template(1)
    template.apply(Event.CANNOT, world.now)
    world.roster.template_cannot(template, BootFailure(4, "SyntaxError"))
    world.settle()
    assert world.roster.shutdown is not None
    assert world.roster.shutdown.status == 4
    assert world.quit is None, "the template is there"
    world.ends(template)
    assert world.quit == 4


def test_a_template_that_fails_in_a_reload_leaves_what_serves() -> None:
    world = Hatchery(preloading())
    world.serves()
    world.roster.ask_reload("SIGHUP", newer_code=False)
    world.settle()
    world.ends(world.template(2))
    assert world.roster.booting is None
    assert world.current().number == 1
    assert world.roster.shutdown is None


def test_the_boot_time_counts_the_import_once_for_all() -> None:
    world = Hatchery(preloading(1, boot=10.0))
    world.pass_time(4.0)
    world.imports()
    child = world.forks()
    assert world.deadline() == pytest.approx(6.0)
    world.pass_time(6.0)
    assert child.killed_because == "did not boot within 10 s (timeouts.boot)"


def test_an_import_without_end_is_ended() -> None:
    world = Hatchery(preloading(1, boot=10.0))
    assert world.deadline() == 10.0
    world.pass_time(10.0)
    assert world.template(1).killed_because == "did not import the application within 10 s (timeouts.boot)"


@pytest.mark.parametrize("urgency", Urgency)
def test_at_the_end_of_all_a_template_is_waited_for(urgency: Urgency) -> None:
    world = Hatchery(preloading(1))
    world.serves()
    world.roster.shutdown = Shutdown(urgency, 0)
    world.settle()
    template = world.template(1)
    assert template.phase is Phase.KILLED
    world.exits(world.roster.children[0])
    assert world.quit is None
    world.ends(template)
    assert world.quit == 0


@pytest.mark.parametrize("urgency", [Urgency.GRACEFUL, Urgency.FAST])
def test_a_stop_hears_of_the_child_that_is_under_way(urgency: Urgency) -> None:
    world = Hatchery(preloading(1))
    world.imports()
    template = world.template(1)
    assert world.phase(1) is Phase.FORKING
    world.roster.shutdown = Shutdown(urgency, 0)
    world.settle()
    assert world.phase(1) is Phase.FORKING
    child = world.forks()
    assert child.told, "it was told to go as soon as it could be"
    assert template.phase is Phase.KILLED


def test_a_template_that_hangs_in_a_fork_is_killed_also_while_the_server_stops() -> None:
    world = Hatchery(preloading(1))
    world.imports()
    world.roster.shutdown = Shutdown(Urgency.GRACEFUL, 0)
    world.pass_time(policy.FORK_GRACE)
    template = world.template(1)
    assert template.phase is Phase.KILLED
    world.ends(template)
    assert world.quit == 0


def test_whatever_happens_there_is_one_template_for_each_generation_and_an_end() -> None:
    for seed in range(150):
        chance = random.Random(seed)
        world = Hatchery(preloading(chance.choice([1, 3])))
        for _ in range(60):
            _something_happens(world, chance)
            world.settle()
            numbers = [item.generation for item in world.roster.templates if item.phase is not Phase.KILLED]
            assert len(numbers) == len(set(numbers))
            new = [child for child in world.roster.children if child.state is State.NEW]
            forking = [item for item in world.roster.templates if item.asked or item.phase is Phase.FORKING]
            assert len(new) >= len(forking)
            if world.quit is not None:
                break
        world.roster.shutdown = Shutdown(Urgency.NOW, 0)
        world.settle()
        for template in list(world.roster.templates):
            world.ends(template)
        for child in list(world.roster.children):
            world.exits(child, -9)
        assert world.quit is not None, seed


def _something_happens(world: Hatchery, chance: random.Random) -> None:
    try:
        match chance.randrange(8):
            case 0 | 1:
                world.pass_time(chance.choice([0.05, 1.0, 20.0]))
            case 2:
                world.roster.ask_reload("change", newer_code=chance.random() < 0.5)
            case 3 | 4 if world.roster.templates:
                number = chance.choice(world.roster.templates).generation
                if chance.random() < 0.5:
                    world.imports(number)
                else:
                    world.forks(number)
            case 5 if world.roster.templates and chance.random() < 0.5:
                world.ends(chance.choice(world.roster.templates))
            case _ if world.roster.children:
                child = chance.choice(world.roster.children)
                if chance.random() < 0.7:
                    child.apply(ChildEvent.BECAME_READY, world.now)
                else:
                    world.exits(child, chance.choice([0, 1, -9]))
    except OutOfTurn, IllegalTransition, AssertionError, ValueError:
        pass


# What a template says


def test_a_process_that_a_template_names_has_to_be_ours_and_new() -> None:
    since = time.monotonic()
    child = subprocess.Popen(["sleep", "60"])
    try:
        pidfd = claim(child.pid, since)
        assert os.readlink(f"/proc/self/fd/{pidfd}").startswith("anon_inode:")
        os.close(pidfd)
        held = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match=f"names the process {child.pid}, which is older"):
            claim(child.pid, since + 60.0)
        with pytest.raises(ChildProcessError):
            claim(os.getppid(), since)
        for nonsense in (0, -1, 2**70, "5", None, 1.0):
            with pytest.raises(OSError, match="names the process"):
                claim(nonsense, since)
        assert len(os.listdir("/proc/self/fd")) == held
    finally:
        child.kill()
        child.wait()
    with pytest.raises(ProcessLookupError):
        claim(child.pid, since)


# The body


def test_threads_beside_this_one_are_named() -> None:
    before = body.other_threads()
    assert "a helper" not in before[0]
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="a helper")
    thread.start()
    try:
        assert body.other_threads() == ([*before[0], "a helper"], before[1])
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("names", "native", "line"),
    [
        (["poller"], 0, "there are: poller; start them in the lifespan, or set preload: false"),
        (
            [],
            3,
            "there are: 3 of native libraries; keep a native library from it by a variable in env, such as",
        ),
        (
            [f"t{number}" for number in range(7)],
            1,
            "t0, t1, t2, t3, t4, 2 more, 1 of native libraries; start them in",
        ),
    ],
)
def test_too_many_threads_is_one_line_with_the_remedy(names: list[str], native: int, line: str) -> None:
    said = body.too_many_threads(names, native)
    assert line in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("link", "flags", "risky"),
    [
        ("socket:[123]", os.O_RDWR, True),
        ("anon_inode:[eventpoll]", os.O_RDWR, True),
        ("/srv/notes.db", os.O_RDWR | os.O_CLOEXEC, True),
        ("/var/log/app.log", os.O_WRONLY | os.O_APPEND, False),
        ("/etc/words.txt", os.O_RDONLY, False),
        ("/dev/urandom", os.O_RDWR, False),
        ("pipe:[5]", os.O_RDONLY, False),
    ],
)
def test_what_processes_should_not_share(link: str, flags: int, risky: bool) -> None:
    assert body.is_risky(9, link, flags) is risky


@pytest.mark.parametrize(
    "papers",
    [
        NO_PAPERS,
        Papers(7, Region(4096, 3), 8, 9),
        Papers(7, Region(8192, 9)),
        Papers(words=4),
        Papers(stacks=4),
    ],
)
def test_papers_travel_with_an_order(papers: Papers) -> None:
    order = body.order(5, papers)
    assert order.index == 5
    assert body.papers_of(order, papers.descriptors()) == papers


def test_descriptors_travel_with_a_message_and_not_with_nonsense() -> None:
    above, below = Channel.pair()
    reader, writer = os.pipe()
    held = len(os.listdir("/proc/self/fd"))
    try:
        assert above.send_with(Fork(3), [writer])
        message, (copy,) = below.recv_with(3)
        assert message == Fork(3)
        assert not os.get_inheritable(copy)
        os.write(copy, b"x")
        assert os.read(reader, 9) == b"x"
        os.close(copy)
        assert above.send(Stop())
        assert below.recv_with(3) == (Stop(), [])
        socket.send_fds(above.sock, [b"{}"], [writer])
        with pytest.raises(ChannelError):
            below.recv_with(3)
        assert len(os.listdir("/proc/self/fd")) == held, "what came with nonsense is closed"
        above.close()
        assert below.recv_with(3) == (None, [])
        assert not below.send_with(Stop(), [writer])
    finally:
        for fd in (reader, writer):
            os.close(fd)
        above.close()
        below.close()
