"""What `medseg infer` prints and returns for several scans."""

import json
import shutil
from functools import partial
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from medseg.cli import console
from medseg.cli.app import run
from medseg.cli.cohort import _Shown
from tests.models.tiny_model import texture, tiny_model, write_scan


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def infer(capsys, model, tmp_path, monkeypatch):
    """``medseg infer`` with the tiny model in a folder with scans ``a``, ``deep/b`` and a damaged ``c``: code, out, err."""
    monkeypatch.chdir(tmp_path)
    for n, name in enumerate(("a", "deep/b", "c")):
        scan = write_scan(tmp_path / "scans" / f"{name}.nii.gz", texture(seed=n))
    scan.write_bytes(scan.read_bytes()[:-20])

    def command(*arguments):
        capsys.readouterr()
        code = run(["infer", "--model", str(model), "--device", "cpu", *arguments])
        return code, *capsys.readouterr()

    return command


def test_lines_of_a_log_name_the_case_that_runs(infer, monkeypatch):
    monkeypatch.setattr(console, "plain_lines", partial(console.plain_lines, 0.0))
    _, _, err = infer("scans", "--output", "out")
    lines = err.splitlines()
    running = [line for line in lines if "windows: " in line]
    assert {line.partition(": ")[0] for line in running} == {"a", "deep/b"}
    assert sum(line.startswith("[") for line in lines) == 2
    assert sum(line.startswith("medseg: error: [") for line in lines) == 1


def test_a_case_that_failed_goes_no_further(capsys):
    told = []
    shown = _Shown(lambda *stage: told.append(stage), quiet=True)
    shown.progress("a: windows", 1, 3)
    shown.progress("b: windows", 1, 3)
    shown.tell({"case": "a", "status": "failed", "error": "too bad"})
    assert told[-1] == ("a: windows", 0, 0)
    assert len(told) == 3


def test_each_case_has_a_line_and_a_row_and_a_bad_one_makes_the_code_1(infer):
    code, out, err = infer("scans", "--output", "out")
    assert code == 1
    lines = err.splitlines()
    assert lines[1] == "3 scans to do"
    assert lines[2].startswith("[1/3] a: ")
    assert lines[3].startswith("medseg: error: [2/3] c: scans/c.nii.gz: truncated")
    assert lines[4].startswith("[3/3] deep/b: ")
    assert lines[5].startswith("2 done, 1 failed")
    rows = [line.split("│")[1:-1] for line in out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row[:2]] for row in rows] == [["a", "done"], ["c", "failed"], ["deep/b", "done"]]
    assert out.splitlines()[-1] == "out/results.csv"
    (_, again, err) = infer("scans", "--output", "out")
    assert "3 scans: 2 done before, 1 to do" in err
    assert again.count("done before") == 2


def test_json_is_what_results_json_holds(infer, tmp_path):
    code, out, err = infer("scans/*.nii.gz", "--output", "out", "--json")
    assert code == 1
    assert json.loads(out) == json.loads((tmp_path / "out" / "results.json").read_text())
    assert [case["status"] for case in json.loads(out)["cases"]] == ["done", "failed"]
    assert "c.nii.gz: truncated" in err


def test_quiet_prints_the_label_maps_and_the_errors_alone(infer):
    code, out, err = infer("scans", "-q", "--output", "out")
    assert (code, out) == (1, "out/a_seg.nii.gz\nout/deep/b_seg.nii.gz\n")
    assert err.startswith("medseg: error: [2/3] c: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["scans"], 2, "scans: holds several scans; say with --output DIR where their label maps go"),
        (["*/a.nii.gz"], 2, "say with --output DIR"),
        (["nothing/*.nii.gz", "--output", "out"], 3, "no scan matches this pattern"),
        (["list.csv", "--output", "out"], 3, "list.csv: this table was not found"),
        (["scans", "--output", "scans/a.nii.gz/out"], 4, "is a file, not a folder"),
        (["scans", "--output", "out.nii.gz"], 2, "give a folder"),
        (["scans", "deep", "--output", "out"], 2, "would both be case"),
    ],
)
def test_what_concerns_all_is_one_line(infer, tmp_path, words, code, said):
    shutil.copytree(tmp_path / "scans", tmp_path / "deep")
    found, out, err = infer("-q", *words)
    assert (found, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_previews_make_a_page_that_has_every_case_and_leads_to_every_file(infer, tmp_path):
    (tmp_path / "scans" / "<b>é #1.nii.gz").write_bytes((tmp_path / "scans" / "a.nii.gz").read_bytes())
    code, out, _ = infer("scans", "--output", "out", "--preview")
    assert code == 1
    assert out.splitlines()[-2:] == ["out/results.csv", "out/results.html"]
    page = (tmp_path / "out" / "results.html").read_text()
    found = Found()
    found.feed(page)
    assert "<b>" not in page
    assert {"a", "<b>é #1", "c", "deep/b"} <= set(found.words)
    assert found.words.index("c") < found.words.index("a")  # what failed comes first
    assert any("truncated" in words for words in found.words)
    assert found.pictures == 3
    linked = [unquote(link) for link in found.links if not link.startswith("#")]
    assert {"a_seg.nii.gz", "deep/preview/b_seg.png", "preview/<b>é #1_seg.png"} <= set(linked)
    assert all((tmp_path / "out" / link).is_file() for link in linked)
    assert all(f'id="{link[1:]}"' in page for link in found.links if link.startswith("#"))


class Found(HTMLParser):
    """What a page says, where it links to, and how many pictures it holds in itself."""

    def __init__(self):
        super().__init__()
        self.words, self.links, self.pictures = [], [], 0

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links += [given["href"]] if "href" in given else []
        self.pictures += given.get("src", "").startswith("data:image/jpeg;base64,")
        assert "src" not in given or given["src"].startswith("data:")

    def handle_data(self, data):
        self.words += [data.strip()] if data.strip() else []
