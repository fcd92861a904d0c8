"""Durations and sizes: what is read, what is refused, and that writing and reading agree for every number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverd.config.errors import BadValue
from serverd.config.units import LARGEST_SIZE, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("30", 30.0),
        ("1.5", 1.5),
        ("200ms", 0.2),
        ("30s", 30.0),
        ("0.5s", 0.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1h 30m 5s", 5405.0),
        ("2d", 172_800.0),
        ("1m500ms", 60.5),
        (" 3s ", 3.0),
        ("0.1", 0.1),
    ],
)
def test_durations_that_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1s", "+1", "1 fortnight", "5x", "1e3", "nan", "inf", "30m1h", "1s1s", "1ms1s", ".5s", "1.s", "1,5s",
     "5S", "1_0", "٣s", "1" * 65, "1:30"],
)  # fmt: skip
def test_durations_that_are_refused(text: str) -> None:
    with pytest.raises(BadValue, match="expected a duration such as 30s"):
        parse_duration(text)


@given(st.floats(min_value=0, max_value=1e9, allow_nan=False))
def test_a_written_duration_reads_back_as_the_same_number(seconds: float) -> None:
    text = format_duration(seconds)
    if len(text) <= 64:  # tinier fractions than a nanosecond have more digits than anybody writes
        assert parse_duration(text) == seconds


@given(st.integers(min_value=0, max_value=10**9))
def test_whole_milliseconds_are_written_short(thousandths: int) -> None:
    text = format_duration(thousandths / 1000)
    assert len(text) <= max(len("100ms"), len(f"{thousandths / 1000}s"))
    assert parse_duration(text) == thousandths / 1000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0"), (0.2, "200ms"), (1.0, "1s"), (90.0, "90s"), (60.0, "1m"), (3600.0, "1h"), (86_400.0, "1d"),
     (1.5, "1.5s"), (0.0001, "0.0001s")],
)  # fmt: skip
def test_how_durations_are_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65_536),
        ("512B", 512),
        ("8KiB", 8192),
        ("8 kib", 8192),
        ("10MiB", 10_485_760),
        ("1GB", 10**9),
        ("1kB", 1000),
        ("1.5MiB", 1_572_864),
        ("2TiB", 2 * 2**40),
        (str(LARGEST_SIZE), LARGEST_SIZE),
    ],
)
def test_sizes_that_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a size such as 8KiB, 10MiB, 1GB or a number of bytes"),
        ("8K", 'expected a size such as 8KiB, 10MiB, 1GB or a number of bytes (write "8KiB" or "8KB")'),
        ("2g", 'expected a size such as 8KiB, 10MiB, 1GB or a number of bytes (write "2GiB" or "2GB")'),
        ("-1", "expected a size such as 8KiB, 10MiB, 1GB or a number of bytes"),
        ("1e3", "expected a size such as 8KiB, 10MiB, 1GB or a number of bytes"),
        ("10 bytes", "expected a size such as 8KiB, 10MiB, 1GB or a number of bytes"),
        ("9" * 65, "expected a size such as 8KiB, 10MiB, 1GB or a number of bytes"),
        ("0.5", "expected a size that is a whole number of bytes"),
        ("9000000000000TiB", f"expected a size of at most {LARGEST_SIZE} bytes"),
    ],
)
def test_sizes_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse_size(text)
    assert str(caught.value) == message


@given(st.integers(min_value=0, max_value=LARGEST_SIZE))
def test_a_written_size_reads_back_as_the_same_number(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(min_value=1, max_value=1023), st.sampled_from(["KiB", "MiB", "GiB", "TiB"]))
def test_round_sizes_keep_their_unit(number: int, unit: str) -> None:
    assert format_size(parse_size(f"{number}{unit}")) == f"{number}{unit}"


@given(st.text(max_size=80))
def test_no_text_makes_the_readers_fail_in_another_way(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            number = parse(text)
        except BadValue:
            continue
        assert number >= 0
