"""The language of keepalived.conf(5), rule by rule: lines, quotes, includes, conditions, definitions, generators."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.config import include, text
from holdfast.config.diagnostics import Diagnostics, Position
from holdfast.config.source import Source

ENVIRONMENT = {"SITE": "berlin"}


class Reader:
    """Reads files of a directory into lines."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.diagnostics = Diagnostics()

    def read(self, content: str, *, config_id: str = "lb1", **files: str) -> list[str]:
        for name, other in files.items():
            (self.directory / f"{name}.conf").write_text(other)
        (self.directory / "main.conf").write_text(content)
        self.source = Source(self.diagnostics, config_id=config_id, environment=ENVIRONMENT, seed=1)
        assert self.source.open_main(str(self.directory / "main.conf"))
        self.lines = []
        while (line := self.source.next_line()) is not None:
            self.lines.append(line)
        return [line.text for line in self.lines]

    @property
    def complaints(self) -> list[str]:
        return [str(diagnostic) for diagnostic in self.diagnostics.listed()]


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def test_comments_end_a_line_outside_of_quotes(reader: Reader) -> None:
    content = 'a # b\n! all\nc "d # e ! f" g # h\ni \\# j \\! k\n'
    assert reader.read(content) == ["a", 'c "d # e ! f" g', "i # j ! k"]


def test_blanks_and_carriage_returns_are_stripped(reader: Reader) -> None:
    assert reader.read("  a b\t\r\n\r\n\tc\r\n") == ["a b", "c"]


def test_an_odd_quote_is_reported_with_its_place(reader: Reader) -> None:
    reader.read('one\n  two "three\n')
    assert reader.diagnostics.kept[0].position == Position(str(reader.directory / "main.conf"), 2, 7)


def test_long_lines_are_ignored_and_padded_ones_are_not(reader: Reader) -> None:
    assert reader.read(f"a {'x' * 1022}\nb{' ' * 2000}\n{'y' * 1023}\n") == ["b", "y" * 1023]
    assert ":1:1024: error: line too long" in reader.complaints[0]


def test_conditions_keep_lines_for_one_router(reader: Reader) -> None:
    content = "@lb1 a\n@lb2 b\n@^lb1 c\n@^lb2 d\n@lb1\n@ e\n@^lb2 @lb1 f\n@^lb2 @^lb1 g\n"
    assert reader.read(content) == ["a", "d", "f"]
    assert all("several @ conditions" in complaint for complaint in reader.complaints)


def test_definitions_are_late_and_can_be_redefined(reader: Reader) -> None:
    content = "$A=1\n$B=${A}$C\n$C=x\nw $B\n$A=2\nw ${B}y $A, $A) $Ab $NONE ${NONE}\n"
    assert reader.read(content) == ["w 1x", "w 2xy 2, 2) $Ab $NONE ${NONE}"]


def test_definitions_may_have_several_lines(reader: Reader) -> None:
    content = "$M= a \\\n  b $N \\\n  c\n$N=1\nbefore $M\n$M= \\\n\nd\n"
    assert reader.read(content) == ["before a", "b 1", "c", "d"]


def test_a_definition_of_several_lines_ends_its_line(reader: Reader) -> None:
    assert reader.read("$M= a \\\n b\nx $M y\n") == []
    assert "has several lines" in reader.complaints[0]


def test_definitions_that_never_end_are_bounded(reader: Reader) -> None:
    content = "$A=$B\n$B=$A\nx $A\n$C=${C}1\ny ${C}\n$D=$D $D\nz $D\n$E= $E \\\n $E\n$E\n"
    reader.read(content)
    assert sum("never ends" in complaint or "too many lines" in complaint for complaint in reader.complaints) >= 3


def test_predefined_names(reader: Reader) -> None:
    content = "${_PWD} ${_INSTANCE} ${_HASH} ${_BANG} ${_ENV SITE} ${_RANDOM 5 5}\n"
    assert reader.read(content) == [f"{reader.directory} lb1 # ! berlin 5"]
    assert "does not know ${_ENV}" in reader.complaints[0]
    numbers = reader.read("${_RANDOM}\n" * 20 + "${_RANDOM 10 12}\n" * 20)
    assert all(0 <= int(number) <= 32767 for number in numbers[:20])
    assert {int(number) for number in numbers[20:]} == {10, 11, 12}


@pytest.mark.parametrize(
    ("generator", "expected"),
    [
        ("~SEQ(v, 3) x$v", ["x1", "x2", "x3"]),
        ("~SEQ(v, 2, 4) x$v", ["x2", "x3", "x4"]),
        ("~SEQ(v, 3, 1) x$v", ["x3", "x2", "x1"]),
        ("~SEQ(v, -2) x$v", ["x-1", "x-2"]),
        ("~SEQ(v, 1, 3, 8) x$v", ["x1", "x4", "x7"]),
        ("~SEQ(v, 010, 0xa) x$v", ["x8", "x9", "x10"]),
        ("~SEQx(v, 9, 11) x$v", ["x9", "xa", "xb"]),
        ("~SEQ(v, 2) ~SEQ(w, 2) ${v}.$w", ["1.1", "1.2", "2.1", "2.2"]),
        ("~LST(v, a, b c) x $v", ["x a", "x b c"]),
        ("~LST({v, w}, {a, 1}, {b}) ${v}-${w}", ["a-1", "b-"]),
    ],
)
def test_generators(reader: Reader, generator: str, expected: list[str]) -> None:
    assert reader.read(generator) == expected
    assert not reader.complaints


@pytest.mark.parametrize(
    "generator",
    ["~SEQ(v, 1, 0, 3) x", "~SEQ(v, 1, -1, 3) x", "~SEQ(v x", "~SEQx(v, -3) x", "~LST(v) x", "~LST({a},{b,c}) x"],
)
def test_bad_generators_are_reported(reader: Reader, generator: str) -> None:
    assert reader.read(f"a\n{generator}\nb") == ["a", "b"]
    assert "~" in reader.complaints[0]


def test_a_bomb_of_generators_is_bounded(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.config.source.MOST_EXPANDED_LINES", 5_000)
    lines = reader.read("~SEQ(a, 100000) ~SEQ(b, 100000) ~SEQ(c, 100000) $a $b $c\nafter\n")
    assert len(lines) < 5_000
    assert lines[-1] == "after"
    assert "too many lines" in reader.complaints[0]


def test_includes_are_relative_to_the_including_file(reader: Reader) -> None:
    inner = reader.directory / "sub"
    inner.mkdir()
    (inner / "a.conf").write_text("include b.conf\na\n")
    (inner / "b.conf").write_text("b $X\n")
    assert reader.read("$X=1\nfirst\ninclude sub/a.conf\nlast\n") == ["first", "b 1", "a", "last"]
    assert reader.lines[1].position().file == str(inner / "b.conf")


def test_includes_take_globs_and_braces(reader: Reader) -> None:
    files = {"x1": "1\n", "x2": "2\n", "y": "3\n"}
    assert reader.read("include x*.conf\ninclude {y,x1}.conf\n", **files) == ["1", "2", "3", "1"]


def test_a_file_does_not_include_itself(reader: Reader) -> None:
    assert reader.read("include a.conf\nmain\n", a="include b.conf\na\n", b="include a.conf\nb\n") == ["b", "a", "main"]
    assert "includes itself" in reader.complaints[0]


def test_an_include_in_the_middle_of_a_line_comes_before_its_rest(reader: Reader) -> None:
    reader.read("")
    (reader.directory / "p.conf").write_text("p1\np2\n")
    (reader.directory / "main.conf").write_text("x\n")
    source = Source(reader.diagnostics, config_id="", environment={})
    source.open_main(str(reader.directory / "main.conf"))
    first = source.next_line()
    assert first is not None
    source.push(first)
    again = source.next_line()
    assert again is first


@pytest.mark.parametrize(
    ("word", "pattern", "counts"),
    [
        ("include", "none.conf", False),
        ("includer", "none.conf", False),
        ("includem", "none.conf", True),
        ("includem", "none*", False),
        ("includew", "none*", True),
        ("includeb", "{main,none}.conf", True),
        ("includew", "{main,none}.conf", False),
        ("includer", "directory", True),
        ("include", "directory", False),
    ],
)
def test_which_problems_of_includes_count(reader: Reader, word: str, pattern: str, counts: bool) -> None:
    (reader.directory / "directory").mkdir()
    (reader.directory / "main2.conf").write_text("")
    reader.read(f"{word} {pattern.replace('main', 'main2')}\n")
    assert any(diagnostic.exit_code for diagnostic in reader.diagnostics.listed()) == counts


def test_executable_files_are_not_read(reader: Reader) -> None:
    (reader.directory / "run.conf").write_text("a\n")
    (reader.directory / "run.conf").chmod(0o755)
    assert reader.read("include run.conf\nb\n") == ["b"]
    assert "execute permission" in reader.complaints[0]


def test_columns_survive_expansion(reader: Reader) -> None:
    reader.read("$A=one two\n   x $A  tail\n@lb1   y z\n")
    (first, second) = reader.lines
    assert first.text == "x one two  tail"
    assert [first.column_at(first.text.index(word)) for word in ("x", "one", "two", "tail")] == [4, 6, 6, 10]
    assert [second.column_at(second.text.index(word)) for word in ("y", "z")] == [8, 10]
    rest = first.cut(first.text.index("tail"))
    assert rest.position().column == 10


def test_brace_alternatives() -> None:
    assert include.expand_braces("a{b,c{d,e}}f") == ["abf", "acdf", "acef"]
    assert include.expand_braces("a{b") == ["a{b"]
    assert len(include.expand_braces("{a,b}" * 30)) <= include.MOST_ALTERNATIVES


def test_plain_words_and_quotes() -> None:
    assert text.split_plain('a "b c"d  e"f g"') == ["a", "b c", "d", "e", "f g"]
    assert text.split_plain('x ""') == ["x", ""]


def test_commands_are_split_like_a_shell_does() -> None:
    assert text.split_shell_like(r"""a 'b "c' "d 'e" f\ g \x41\102\t h'i'j""") == [
        "a",
        'b "c',
        "d 'e",
        "f g",
        "AB\t",
        "hij",
    ]
    with pytest.raises(text.UnterminatedQuote):
        text.split_shell_like("a 'b")


@pytest.mark.parametrize(
    ("word", "number"),
    [("10", 10), ("+5", 5), ("-5", -5), ("010", 10), ("0x10", None), ("1.5", None), ("", 0), (" 5", 5), ("5 ", None)],
)
def test_whole_numbers(word: str, number: int | None) -> None:
    assert text.integer(word) == number


@pytest.mark.parametrize(
    ("word", "number"),
    [("1", 1_000_000), (".5", 500_000), ("1.", 1_000_000), ("1.123456", 1_123_456), ("1.1234567", None), ("1e2", None)],
)
def test_decimal_numbers(word: str, number: int | None) -> None:
    assert text.decimal(word, 6) == number
