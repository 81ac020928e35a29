"""Strict YAML: what strangers may write, and that what is dumped is read back."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import strict_yaml
from search_spaces.errors import SpaceError

BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(
        ["no", "on", "y", "1e-3", "010", "1:30", "0x1F", "2024-01-01", "~", "<<", "="]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(max_size=30), plain, max_size=5))
def test_what_is_dumped_is_read_back(data: dict[str, object]) -> None:
    text = strict_yaml.dump(data)
    assert strict_yaml.parse(text, "here") == data
    assert strict_yaml.dump(strict_yaml.parse(text, "here")) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("y", "y"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("1e-3", 0.001),
        ("5E+2", 500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("12", 12),
        ("+3", 3),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("1_0.5", "1_0.5"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("=", "="),
        ("1.0.0", "1.0.0"),
        ("e3", "e3"),
        ("1e", "1e"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    read = strict_yaml.parse(f"key: {text}", "here")["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"line 3, column 1: duplicate key 'a'"),
        ("x: {a: 1, a: 1}", r"line 1, column 11: duplicate key 'a'"),
        ("x: [{y: {a: 1, 'a': 1}}]", r"duplicate key 'a'"),
        ("{1: a, 1: b}", r"duplicate key '1'"),
        ("a: &x 1\nb: *x", r"line 2, column 4: aliases \(\*name\) are not accepted"),
        ("a: &x [*x]", r"aliases"),
        (BOMB, r"line 2, column 8: aliases"),
        ("a: !!python/object/apply:os.system [id]", r"tags are not accepted"),
        ("a: !!timestamp x", r"line 1, column 4: tags are not accepted; leave '.*timestamp' out"),
        ("a: !!bool x", r"tags"),
        ("a: !!set {a}", r"tags"),
        ("!own {a: 1}", r"tags"),
        ("a: " + "[" * 1500, r"nested too deeply"),
        ("a: " + "{b: " * 1500, r"nested too deeply"),
        ("a: " + "9" * 5000, r"Exceeds the limit"),
        ("? [a]\n: 1", r"a key must be a plain value"),
        ("1: 2", r"key 1: a name expected"),
        ("- a", r"expected 'key: value' lines, got list"),
        ("", r"is empty; expected 'key: value' lines"),
        ("# only words\n", r"is empty; expected 'key: value' lines"),
        ("word", r"expected 'key: value' lines, got str"),
        ("a: 1\n---\nb: 2", r"line 2, column 1: .*another document"),
        ("a: [1, 2", r"line 1, column 9"),
        ("a: b: c", r"line 1, column 5"),
        ("a: \x00", r"special characters"),
        ("a: '" + "x" * strict_yaml.MAX_BYTES + "'", r"larger than 1000000 bytes"),
    ],
    ids=lambda text: text[:20] if len(text) < 200 else "long",
)
def test_refusals_say_where(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=f"^here:.*{message}"):
        strict_yaml.parse(text, "here")


def test_files_are_read_as_utf8_up_to_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes("\ufeffa: à\r\nb: 2\r\n".encode())
    assert strict_yaml.read(file) == {"a": "à", "b": 2}
    with pytest.raises(SpaceError, match=r"no\.yaml: no such file"):
        strict_yaml.read(tmp_path / "no.yaml")
    with pytest.raises(SpaceError, match=r"cannot be read"):
        strict_yaml.read(tmp_path)
    file.write_bytes(b"a: \xff")
    with pytest.raises(SpaceError, match=r"a\.yaml: cannot be read as UTF-8"):
        strict_yaml.read(file)
    with file.open("wb") as sparse:
        sparse.truncate(10**12)
    with pytest.raises(SpaceError, match=r"larger than"):
        strict_yaml.read(file)
