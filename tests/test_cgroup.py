"""cgroup: the kernel's files, as they are in version 2, in version 1, inside a container, and not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from serverd.supervisor import cgroup

MIB = 1 << 20


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    path = tmp_path / "cgroup"
    path.write_text("0::/system.slice/serverd.service\n")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "fs").mkdir()
    return tmp_path / "fs"


def test_the_nearest_limit_counts(root: Path, membership: Path) -> None:
    inner, outer = root / "system.slice/serverd.service", root / "system.slice"
    write(inner, memory__max="max\n", memory__current=f"{50 * MIB}\n")
    write(outer, memory__max=f"{200 * MIB}\n", memory__current=f"{120 * MIB}\n")
    assert cgroup.headroom(root, membership) == 80 * MIB
    write(inner, memory__max=f"{64 * MIB}\n")
    assert cgroup.headroom(root, membership) == 14 * MIB
    write(inner, memory__stat=f"anon 1\ninactive_file {10 * MIB}\n")
    assert cgroup.headroom(root, membership) == 24 * MIB, "the page cache gives way"
    write(inner, memory__current=f"{90 * MIB}\n")
    assert cgroup.headroom(root, membership) == 0


def test_no_limit_and_no_file_system(root: Path, membership: Path, tmp_path: Path) -> None:
    assert cgroup.headroom(root, membership) is None
    write(root / "system.slice/serverd.service", memory__max="max\n", memory__current="1\n")
    assert cgroup.headroom(root, membership) is None
    assert cgroup.headroom(root, tmp_path / "absent") is None
    assert cgroup.oom_kills(root, tmp_path / "absent") is None


def test_version_1(root: Path, tmp_path: Path) -> None:
    membership = tmp_path / "v1"
    membership.write_text("9:name=systemd:/\n4:cpu,memory:/shop\n0::/\n")
    group = root / "memory/shop"
    write(root / "memory", memory__limit_in_bytes="9223372036854771712\n", memory__usage_in_bytes="7\n")
    write(group, memory__limit_in_bytes=f"{64 * MIB}\n", memory__usage_in_bytes=f"{MIB}\n")
    write(group, memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert cgroup.headroom(root, membership) == 63 * MIB
    assert cgroup.oom_kills(root, membership) == 3


def test_a_container_sees_its_own_group_as_the_root(root: Path, membership: Path) -> None:
    write(
        root,
        memory__max=f"{64 * MIB}\n",
        memory__current=f"{60 * MIB}\n",
        memory__events="low 0\noom_kill 2\n",
    )
    assert cgroup.headroom(root, membership) == 4 * MIB
    assert cgroup.oom_kills(root, membership) == 2


def test_this_machine_answers() -> None:
    assert cgroup.headroom() is None or cgroup.headroom() >= 0  # type: ignore[operator]
    assert cgroup.oom_kills() is None or cgroup.oom_kills() >= 0  # type: ignore[operator]
