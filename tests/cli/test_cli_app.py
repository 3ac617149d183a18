import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

import medseg
from medseg.__main__ import main
from medseg.cli import app
from medseg.cli.app import run
from medseg.cli.console import error_line, note_line, plain_lines, print_table, progress_bars
from medseg.core.errors import CasesError, ConfigError, DataError, Interrupted, OutputError, ResourceError
from medseg.core.text import printable

MEDSEG = [sys.executable, "-m", "medseg"]


@pytest.fixture
def failing(monkeypatch):
    """Lets ``medseg info`` fail with the error it is given."""

    def failing(error):
        def fail():
            raise error

        monkeypatch.setattr("medseg.workflows.info.info", fail)

    return failing


def test_the_version_is_that_of_the_package(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"medseg {version('medseg')}\n"
    assert medseg.__version__ == version("medseg")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_verb(capsys, flag):
    assert run([flag]) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in ("train", "infer", "evaluate", "phantom", "demo", "info"))
    assert "Not a medical device" in printed


@pytest.mark.parametrize("verb", ["train", "infer", "evaluate", "phantom", "demo", "info"])
def test_each_verb_explains_itself(capsys, verb):
    assert run([verb, "--help"]) == 0
    assert f"medseg {verb}" in capsys.readouterr().out


def test_no_word_of_a_help_text_is_taken_for_markup_and_lost():
    """Rich drops what stands in [brackets] and begins with a letter, as ``[largest_component]`` once was."""

    def commands(one):
        yield one
        for inner in getattr(one, "commands", {}).values():
            yield from commands(inner)

    texts = [
        text
        for command in commands(typer.main.get_command(app.app))
        for text in (command.help, *(getattr(parameter, "help", "") for parameter in command.params))
    ]
    assert len(texts) > 100
    assert [text for text in texts if re.search(r"(?<!\\)\[[a-z#/@]", text or "")] == []


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            ["infer", "x.nii"],
            ["infer", "y.nii", "--model", "x.nii"],
            ["dicom", "ls", "x.nii"],
            ["train", "-c", "x.nii"],
        ),
        *(["evaluate", "x.nii", "x.nii"], ["convert", "x.nii", "y.nrrd", "--labels", "x.nii"], ["compare", "x.nii"]),
    ],
)
def test_a_path_that_may_not_be_read_is_no_wrong_usage(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    Path("x.nii").write_bytes(b"")
    monkeypatch.setattr(os, "access", lambda *what, **how: False)  # as for a user without the right to read
    run(arguments)
    assert "Usage" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "word"), [(["inferr"], "inferr"), (["--nope"], "--nope"), (["info", "extra"], "extra")]
)
def test_wrong_usage_is_exit_2_and_names_what_is_wrong(capsys, arguments, word):
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert word in printed.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CasesError("some"), 1),
        (ConfigError("config"), 2),
        (DataError("data"), 3),
        (OutputError("output"), 4),
        (ResourceError("memory"), 5),
        (Interrupted("stopped", 15), 143),
        (MemoryError(), 5),
        (OSError(28, "No space left on device"), 5),
        (ValueError("two\nlines \x1b[31m"), 1),
        (OSError(5, "Input/output error"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(capfd, failing, error, code):
    failing(error)
    assert run(["info"]) == code
    printed = capfd.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"medseg: error: [^\n\x1b]+\n", printed.err), printed.err
    assert str(error.args[-1] if error.args else "").split("\n")[0] in printed.err
    assert "Traceback" not in printed.err


def test_a_bug_says_that_it_is_one(capsys, failing):
    failing(KeyError("x"))
    assert run(["info"]) == 1
    assert "unexpected KeyError: 'x' - this is a bug in medseg; run again with --debug" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--debug", "info"], ["info", "--debug"], ["info", "--json", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(failing, arguments):
    failing(DataError("data"))
    with pytest.raises(DataError):
        run(arguments)


def test_debug_after_two_dashes_is_a_file_name(capsys):
    assert run(["info", "--", "--debug"]) == 2
    assert "--debug" in capsys.readouterr().err


def test_info_tells_versions_and_devices_and_no_person_or_machine(capsys):
    assert run(["info", "--json"]) == 0
    printed = capsys.readouterr().out
    facts = json.loads(printed)
    assert facts["versions"]["torch"] == version("torch")
    assert facts["cpu"]["cores"] == os.cpu_count()
    assert facts["cuda"] in ("yes", "no")
    assert not any(name in printed for name in (os.uname().nodename, str(Path.home())))
    assert run(["info"]) == 0
    assert f"  torch: {version('torch')}\n" in capsys.readouterr().out


def test_it_runs_as_a_module():
    done = subprocess.run([*MEDSEG, "--version"], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == f"medseg {version('medseg')}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_output_that_cannot_be_printed_is_exit_5(arguments):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*MEDSEG, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 5
    assert re.fullmatch(r"medseg: error: [^\n]*No space left on device[^\n]*\n", done.stderr)


def test_a_reader_that_goes_away_is_no_traceback():
    with subprocess.Popen([*MEDSEG, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in (0, 1)


def test_a_name_cannot_draw_on_the_terminal(capsys):
    name = "a\x1b[2Jb\rc\u202ed\udcff肝"
    assert printable(name) == "a\\x1b[2Jb\\rc\\u202ed\\udcff肝"
    error_line(name)
    note_line(name)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"medseg: error: {printable(name)}\n{printable(name)}\n"


def test_a_table_shows_every_cell_as_it_is(capsys):
    print_table("", ["structure", "mL"], [["[bold]liver[/bold][/x] :heart:", "1.50"], ["x" * 200, "2"]])
    printed = capsys.readouterr().out
    assert "[bold]liver[/bold][/x] :heart:" in printed
    assert printed.count("x") >= 200


@pytest.mark.parametrize("quiet", [True, False])
def test_progress_is_silent_where_nobody_watches(capsys, quiet):
    with progress_bars(quiet=quiet) as progress:
        progress("windows", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_an_interrupt_while_modules_load_is_one_line(monkeypatch, capsys):
    class Interrupted:
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "medseg.cli.app", Interrupted())
    with pytest.raises(SystemExit, match="130"):
        main()
    assert capsys.readouterr().err == "medseg: error: interrupted\n"


def test_a_bar_has_the_name_of_its_stage_whatever_that_is_until_it_ends(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bars(quiet=False) as progress:
        progress("cases", 0, 2)
        progress("q[/b]\x1b: windows", 1, 2)
        progress("q[/b]\x1b: windows", 0, 0)
        progress("a_very_long_name_of_a_case_in_a_folder: windows", 1, 2)
    shown = capsys.readouterr().err
    assert "a_very_long_nam…_a_folder: windows" in shown
    with progress_bars(quiet=False) as progress:
        progress("q[/b]\x1b: windows", 1, 2)
    shown = capsys.readouterr().err
    assert r"q[/b]\x1b: windows" in shown
    assert "cases" not in shown


def test_lines_in_a_log_end_with_their_stage(capsys):
    progress = plain_lines(0.0)
    for told in (("a: windows", 1, 4), ("a: windows", 0, 0), ("cases", 0, 0), ("b: windows", 4, 4)):
        progress(*told)
    assert capsys.readouterr().err == "a: windows: 1 of 4\nb: windows: 4 of 4\n"


def test_the_public_names_are_these_and_load_on_first_use():
    functions = ["train", "check", "infer", "evaluate", "compare", "convert", "load_config"]
    types = ["Segmenter", "Geometry", "Volume", "LabelMap", "Labels", "MedsegError"]
    assert dir(medseg) == sorted(["__version__", *functions, *types])
    assert all(getattr(medseg, name) is not None for name in dir(medseg))
    assert medseg.MedsegError is app.MedsegError
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = medseg.nothing
