import json
import os
import re
import signal
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medseg.cli.app import run
from medseg.core.labels import PALETTE
from medseg.inference import segmenter
from tests.models.tiny_model import tiny_model, tiny_plan, tiny_states, write_scan


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Done:
    """Exit code, stdout and stderr of one command line, run in this process."""

    def __init__(self, capsys, *arguments):
        capsys.readouterr()
        self.code = run([str(argument) for argument in arguments])
        self.out, self.err = capsys.readouterr()

    @property
    def message(self):
        """The one line of an error."""
        assert self.err.startswith("medseg: error: "), self.err
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("medseg: error: ")


@pytest.fixture
def infer(capsys, model):
    """``medseg infer`` with the tiny model on the CPU."""
    return lambda *arguments: Done(capsys, "infer", "--model", model, "--device", "cpu", *arguments)


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_results_go_to_stdout_and_remarks_to_stderr(here, infer, model):
    scan = write_scan(here / "x.nii.gz")
    done = infer(scan)
    assert done.code == 0
    assert done.out.splitlines()[-1] == str(here / "x_seg.nii.gz")
    assert all(words in done.out for words in ("structure", "volume mL", "liver", "tumour"))
    assert done.err.splitlines()[0] == f"model: {model} (tiny, MR, liver, tumour); device: cpu, torch f32"
    assert done.err.splitlines()[-1] == "Not a medical device."
    assert files_in(here) == {"x.nii.gz", "x_seg.nii.gz", "x_seg.json"}


def test_every_output_beside_the_label_map_is_written_and_printed(here, infer):
    scan = write_scan(here / "x.nii.gz")
    done = infer(scan, "-q", "--seg-nrrd", "--separate", "--stats", "--color-tables")
    assert (done.code, done.err) == (0, "")
    more = {
        *("x_seg.seg.nrrd", "x_seg_stats.json", "x_seg_stats.csv", "x_seg_itksnap.txt", "x_seg_slicer.ctbl"),
        *("x_seg/liver.nii.gz", "x_seg/tumour.nii.gz"),
    }
    assert files_in(here) == {"x.nii.gz", "x_seg.nii.gz", "x_seg.json", "x_seg", *more}
    assert set(done.out.splitlines()) == {str(here / name) for name in ("x_seg.nii.gz", *more)}
    outputs = json.loads((here / "x_seg.json").read_text())["outputs"]
    assert {path for files in outputs.values() for path in files} == {str(here / name) for name in more}


def test_a_fold_alone_is_the_model_of_that_fold_and_another_cohort_than_all_of_them(here, capsys):
    states = tiny_states(tiny_plan(), 2)
    tiny_model(here / "both", states=states)
    tiny_model(here / "second", states={"fold_1": states["fold_1"]})
    write_scan(here / "scans" / "x.nii.gz", np.random.default_rng(1).normal(size=(14, 12, 10)).astype(np.float32))

    def label_map(output, *asked):
        arguments = ("scans", "--output", output, "--device", "cpu", "--json", "--model", *asked)
        content = json.loads(Done(capsys, "infer", *arguments).out)
        return content["cases"][0]["outputs"]["x_seg.nii.gz"], content["settings"]["folds"]

    both, second = label_map("o1", "both"), label_map("o2", "second")
    assert both[0] != second[0]
    assert label_map("o3", "both", "--folds", "1") == (second[0], ["fold_1"])
    assert label_map("o4", "both", "--folds", "0,1") == both
    done = Done(capsys, "infer", "scans", "--output", "o1", "--model", "both", "--folds", "0", "--device", "cpu")
    assert done.code == 4
    assert re.search(
        r'begun with model weights={"fold_0": "\w{16}", "fold_1": "\w{16}"}, but this run has model weights={"fold_0": "\w{16}"};',
        done.err,
    )
    assert Done(capsys, "infer", "scans", "--output", "o5", "--model", "both", "--folds", "2").code == 2
    assert not (here / "o5").exists()


def test_a_preview_shows_what_was_found_and_is_no_scan_of_the_next_run(here, infer):
    scan = write_scan(here / "x.nii.gz")
    done = infer(scan, "-q", "--preview")
    assert done.out.splitlines() == [str(here / "x_seg.nii.gz"), str(here / "preview" / "x_seg.png")]
    pixels = (np.array(Image.open(here / "preview" / "x_seg.png"))[..., :3]).reshape(-1, 3)
    for colour in PALETTE[:2]:  # in the legend
        assert (pixels == [int(colour[n : n + 2], 16) for n in (1, 3, 5)]).all(axis=1).any()
    assert [order["case"] for order in json.loads(infer(here, "--output", here / "o", "--json").out)["cases"]] == ["x"]


@pytest.mark.parametrize("taken", ["x_seg.seg.nrrd", "x_seg/tumour.nii.gz", "x_seg_stats.csv"])
def test_an_output_that_exists_is_told_before_the_work_and_replaced_by_force(here, infer, taken):
    scan = write_scan(here / "x.nii.gz")
    (here / taken).parent.mkdir(exist_ok=True)
    (here / taken).write_text("old")
    flags = ("--seg-nrrd", "--separate", "--stats")
    done = infer(scan, *flags)
    assert done.code == 4
    assert f"{taken}: exists already" in done.err
    assert not (here / "x_seg.nii.gz").exists()
    assert infer(scan, *flags, "--force").code == 0
    assert (here / taken).read_bytes() != b"old"


def test_a_sheared_scan_is_refused_by_name_for_a_format_without_shear(here, infer):
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    affine[1, 2] = 0.7
    done = infer(write_scan(here / "x.nii.gz", affine=affine), "--seg-nrrd")
    assert done.code == 3
    assert "x.nii.gz: its voxel axes miss a right angle by 19.3 degrees" in done.err
    assert files_in(here) == {"x.nii.gz"}


def test_many_structures_at_the_border_are_eight_names_on_the_terminal_and_all_in_the_json(here, capsys):
    labels = {"background": 0} | {f"rib_left_{n}": n for n in range(1, 13)}
    model = tiny_model(here / "model", plan=tiny_plan(labels=labels))
    done = Done(capsys, "infer", "--model", model, "--device", "cpu", write_scan(here / "x.nii.gz"))
    (said,) = (line for line in done.err.splitlines() if "touch the border" in line)
    (all_of_them,) = (w for w in json.loads((here / "x_seg.json").read_text())["warnings"] if "touch the border" in w)
    names = all_of_them.removesuffix(" touch the border of the scan: the volume may be truncated").split(", ")
    assert len(names) > 8
    assert set(names) <= set(labels)
    eight = ", ".join(names[:8])
    assert (
        said == f"warning: {eight} and {len(names) - 8} more touch the border of the scan: the volume may be truncated"
    )


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_quiet_prints_the_path_alone(here, infer, flag):
    done = infer(write_scan(here / "x.nii.gz"), flag)
    assert (done.code, done.out, done.err) == (0, f"{here / 'x_seg.nii.gz'}\n", "")


def test_json_is_exactly_one_object_on_stdout(here, infer):
    scans = [write_scan(here / name) for name in ("x.nii.gz", "ÿ.nii.gz")]
    done = infer(*scans, "--json")
    assert done.code == 0
    content = json.loads(done.out)
    assert content["failed"] == []
    assert [record["scan"]["path"] for record in content["results"]] == [str(scan) for scan in scans]
    assert content["results"][0] == json.loads((here / "x_seg.json").read_text())
    assert "Not a medical device." in done.err


def test_the_newest_model_under_runs_is_the_default_and_named_first(here, capsys):
    for name, created in (("old", "2025"), ("new", "2026"), ("older", "2024")):
        tiny_model(here / "runs" / name / "model", created=f"{created}-01-01T00:00:00.000000+00:00")
    done = Done(capsys, "infer", write_scan(here / "x.nii.gz"), "--device", "cpu")
    assert done.code == 0
    assert done.err.splitlines()[0].startswith("model: runs/new/model ")


def test_without_a_model_it_says_how_to_get_one(here, capsys):
    done = Done(capsys, "infer", write_scan(here / "x.nii.gz"))
    assert done.code == 3
    assert all(words in done.message for words in ("no model under runs", "--model", "medseg train", "medseg demo"))
    assert files_in(here) == {"x.nii.gz"}


def test_output_may_be_a_file_or_a_folder(here, infer):
    scan = write_scan(here / "x.nii.gz")
    assert infer(scan, "--output", "masks/one.nii", "-q").out == "masks/one.nii\n"
    assert infer(scan, "-o", "folder", "-q").out == "folder/x_seg.nii.gz\n"
    assert files_in(here) == {
        *("x.nii.gz", "masks", "masks/one.nii", "masks/one.json"),
        *("folder", "folder/x_seg.nii.gz", "folder/x_seg.json"),
    }


def test_an_existing_output_is_exit_4_and_force_overwrites_it(here, infer):
    scan = write_scan(here / "x.nii.gz")
    assert infer(scan).code == 0
    before = (here / "x_seg.nii.gz").stat().st_ino
    done = infer(scan)
    assert done.code == 4
    assert "x_seg.nii.gz: exists already" in done.message
    assert "--force" in done.message
    assert (here / "x_seg.nii.gz").stat().st_ino == before
    assert infer(scan, "--force").code == 0
    assert (here / "x_seg.nii.gz").stat().st_ino != before


def test_what_needs_no_network_is_refused_before_pytorch_starts_and_nothing_is_said_after(here, model):
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.int16), np.diag([0.8, 0.8, 0.8, 1])).header
    header.set_data_shape((400, 400, 400))
    header.set_xyzt_units("mm")
    header["vox_offset"] = 352
    with (here / "big.nii").open("wb") as file:
        file.write(header.binaryblock.ljust(352, b"\0"))
        file.truncate(352 + 2 * 400**3)  # sparse: 5 bytes a voxel are 0.3 GiB, 320 MiB are for PyTorch and libraries
    write_scan(here / "done.nii.gz")
    (here / "done_seg.nii.gz").write_text("mine")
    runs = [["big.nii", "--max-memory", "90M"], ["big.nii", "--max-memory", "600M"], ["done.nii.gz"]]
    program = (
        "import sys; from medseg.cli.app import run\n"
        f"for one in {runs!r}: print(run(['infer', '--model', {str(model)!r}, *one]), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["5 False", "5 False", "4 False"], done.stderr
    any_model, this_scan, exists = done.stderr.splitlines()
    assert "max-memory 0.09 GiB does not suffice: any model needs at least 0." in any_model
    assert (
        "big.nii: max-memory 0.59 GiB does not suffice: to read and segment it takes at least 0.61 GiB beside"
        in this_scan
    )
    assert "exists already" in exists


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda:x", "cpu:0", "CUDA", "", "mps"])
def test_an_unknown_device_is_exit_2(here, capsys, model, word):
    done = Done(capsys, "infer", write_scan(here / "x.nii.gz"), "--model", model, "--device", word)
    assert done.code == 2
    assert "device" in done.message
    assert files_in(here) == {"x.nii.gz"}


@pytest.mark.parametrize("word", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_exit_5(here, capsys, model, monkeypatch, word):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = Done(capsys, "infer", write_scan(here / "x.nii.gz"), "--model", model, "--device", word)
    assert done.code == 5
    assert "--device cpu" in done.message
    assert files_in(here) == {"x.nii.gz"}


def test_a_gpu_beyond_those_there_is_exit_5(here, capsys, model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    done = Done(capsys, "infer", write_scan(here / "x.nii.gz"), "--model", model, "--device", "cuda:2")
    assert done.code == 5
    assert "there are 2 GPU(s)" in done.message


def test_a_place_that_cannot_be_written_is_exit_4(here, infer):
    scan = write_scan(here / "x.nii.gz")
    done = infer(scan, "--output", scan / "below")
    assert done.code == 4
    assert "is a file, not a folder" in done.message
    assert files_in(here) == {"x.nii.gz"}


@pytest.mark.parametrize("number", [30, 13])  # EROFS, EACCES
def test_a_read_only_place_is_exit_4(here, infer, monkeypatch, number):
    scan = write_scan(here / "x.nii.gz")

    def read_only(path, content):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(type(here), "write_bytes", read_only)
    done = infer(scan)
    assert done.code == 4
    assert os.strerror(number) in done.message
    assert files_in(here) == {"x.nii.gz"}


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_is_exit_5_and_leaves_what_was_there(here, infer, existing):
    resource = pytest.importorskip("resource")
    scan = write_scan(here / "x.nii.gz", np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    if existing:
        (here / "x_seg.nii").write_text("old")
    before = {name: (here / name).read_bytes() for name in files_in(here)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))  # of the 8000 bytes that are needed
    try:
        done = infer(scan, "--output", here / "x_seg.nii", "--force", "-q")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.code == 5
    assert "x_seg.nii: the disk is full" in done.message
    assert {name: (here / name).read_bytes() for name in files_in(here)} == before


def test_one_bad_scan_among_several_is_exit_1_and_the_rest_is_done(here, infer):
    scans = [write_scan(here / "a.nii.gz"), here / "b.nii.gz", write_scan(here / "c.nii.gz")]
    scans[1].write_bytes(b"")
    done = infer(*scans, "-q")
    assert done.code == 1
    assert done.out.split() == [str(here / "a_seg.nii.gz"), str(here / "c_seg.nii.gz")]
    assert "b.nii.gz" in done.message
    assert "empty" in done.message
    done = infer(*scans, "--json", "--force")
    assert done.code == 1
    content = json.loads(done.out)
    assert len(content["results"]) == 2
    (failed,) = content["failed"]
    assert failed["scan"] == str(scans[1])
    assert "empty" in failed["error"]


def test_a_single_bad_scan_keeps_its_own_exit_code_also_with_json(here, infer):
    (here / "b.nii.gz").write_bytes(b"")
    done = infer(here / "b.nii.gz", "--json", "-q")
    assert done.code == 3
    assert json.loads(done.out)["failed"][0]["scan"] == str(here / "b.nii.gz")
    assert "empty" in done.message


def test_two_scans_of_one_id_are_exit_2(here, infer):
    done = infer(write_scan(here / "x.nii.gz"), write_scan(here / "x.nii"))
    assert done.code == 2
    assert all(words in done.message for words in ("x.nii.gz and ", "x.nii would both be written", "x_seg.nii.gz"))
    assert files_in(here) == {"x.nii.gz", "x.nii"}


@pytest.mark.parametrize("arguments", [["infer"], ["infer", "x.nii", "--what"], ["infer", "x.nii", "--model"]])
def test_wrong_usage_is_exit_2(capsys, arguments):
    done = Done(capsys, *arguments)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "Error" in done.err
    assert done.out == ""


# The policy's group path.

GOOD_NAMES = {
    "p-unicode": "肝臓 Größe ñ é e\u0301.nii.gz",
    "p-spaces": "  a  b .nii.gz",
    "p-newline": "a\nb\tc\r.nii.gz",
    "p-escape": "\x1b[31mred\x07.nii.gz",
    "p-shell": "$(touch canary)`touch canary`;touch canary|x&.nii.gz",
    "p-percent": "100%s%d%n{0}{name}.nii.gz",
    "p-long": "x" * 230 + ".nii.gz",
    "p-dots": "a..b...nii.gz",
    "p-glob": "[a-z]*?.nii.gz",
    "p-dash": "-rf.nii.gz",
    "p-deep": "/".join(["deep"] * 150) + "/x.nii.gz",
    "p-notutf8": os.fsdecode(b"caf\xe9\xff.nii.gz"),
    "p-quote": 'it\'s "x" \\n.nii.gz',
}


@pytest.mark.parametrize("name", GOOD_NAMES.values(), ids=GOOD_NAMES)
def test_any_name_that_a_file_can_have_is_taken_and_changes_nothing_else(here, infer, name):
    scan = here / name
    scan.parent.mkdir(parents=True, exist_ok=True)
    write_scan(here / "plain.nii.gz").rename(scan)
    done = infer(scan)
    assert done.code == 0, done.err
    assert all(line.isprintable() for line in (done.out + done.err).split("\n"))
    case = name.split("/")[-1].removesuffix(".nii.gz")
    assert {path.name for path in scan.parent.iterdir()} == {scan.name, f"{case}_seg.nii.gz", f"{case}_seg.json"}
    manifest = json.loads((scan.parent / f"{case}_seg.json").read_text())
    assert manifest["scan"]["path"] == str(scan)
    mask, source = nib.load(scan.parent / f"{case}_seg.nii.gz"), nib.load(scan)
    np.testing.assert_allclose(mask.affine, source.affine, atol=1e-6)


@pytest.mark.parametrize("given", [["--", "-rf.nii.gz"], ["./-rf.nii.gz"]])
def test_a_relative_name_that_looks_like_an_option_is_taken(here, infer, given):
    write_scan(here / "-rf.nii.gz")
    assert infer("-q", *given).out == f"{here}/-rf_seg.nii.gz\n"


def test_a_link_is_followed_and_the_mask_lies_beside_the_link(here, infer):
    scan = write_scan(here / "store" / "x.nii.gz")
    (here / "links").mkdir()
    (here / "links" / "patient.nii.gz").symlink_to(scan)
    assert infer(here / "links" / "patient.nii.gz").code == 0
    assert {path.name for path in (here / "store").iterdir()} == {"x.nii.gz"}
    assert (here / "links" / "patient_seg.nii.gz").is_file()


def _symlink_loop(folder):
    (folder / "a.nii.gz").symlink_to(folder / "b.nii.gz")
    (folder / "b.nii.gz").symlink_to(folder / "a.nii.gz")
    return folder / "a.nii.gz"


def _folder_loop(folder):
    (folder / "study").mkdir()
    (folder / "study" / "again").symlink_to(folder / "study")
    return folder / "study"


def _dangling(folder):
    (folder / "x.nii.gz").symlink_to(folder / "gone.nii.gz")
    return folder / "x.nii.gz"


def _device(folder):
    (folder / "x.nii.gz").symlink_to("/dev/zero")
    return folder / "x.nii.gz"


def _fifo(folder):
    os.mkfifo(folder / "x.nii.gz")
    return folder / "x.nii.gz"


def _folder(name):
    def make(folder):
        (folder / name).mkdir()
        return folder / name

    return make


BAD_PATHS = {
    "p-symlink-loop": (_symlink_loop, "link|loop|exist|found"),
    "p-folder-loop": (_folder_loop, "no .*(image|dicom|scan)|found|empty"),
    "p-symlink-dangling": (_dangling, "exist|found|link"),
    "p-device": (_device, "regular file|device|nifti|not a|header"),
    "p-fifo": (_fifo, "regular file|pipe|fifo|not a"),
    "p-dir-as-file": (_folder("x.nii.gz"), "folder|directory|empty|no "),
    "p-missing": (lambda folder: folder / "gone.nii.gz", "exist|found|no such"),
    "p-missing-folder": (lambda folder: folder / "gone" / "x.nii.gz", "exist|found|no such"),
    "p-below-a-file": (lambda folder: write_scan(folder / "x.nii.gz") / "y.nii.gz", "exist|found|no such|folder"),
    "p-empty-dir": (_folder("study"), "empty|no .*(dicom|image|file)|found"),
    "p-name-too-long": (lambda folder: folder / ("x" * 300 + ".nii.gz"), "long"),
    "p-no-suffix": (lambda folder: write_scan(folder / "x.nii.gz").rename(folder / "scan"), "gzip|type|suffix"),
}


@pytest.mark.timeout(60)  # what waits on a pipe or reads /dev/zero never ends
@pytest.mark.parametrize(("make", "words"), BAD_PATHS.values(), ids=BAD_PATHS)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_path_that_leads_to_no_scan_is_refused_by_name(here, infer, make, words, elsewhere):
    scan = make(here)
    before = files_in(here)
    done = infer("-q", scan, *(["--output", here / "out"] if elsewhere else []))
    assert done.code == 3, done.err
    assert done.message.startswith(str(scan))
    assert re.search(words, done.message.replace(str(scan), ""), re.IGNORECASE), done.message
    assert files_in(here) == before


def test_a_file_that_may_not_be_read_is_refused_by_name(here, infer, monkeypatch):
    scan = write_scan(here / "x.nii.gz")
    real = os.open

    def forbidden(path, *arguments, **options):
        if str(path) == str(scan):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr("medseg.io.source.os.open", forbidden)
    done = infer("-q", scan)
    assert done.code == 3
    assert "permission denied" in done.message
    assert files_in(here) == {"x.nii.gz"}


def test_the_current_folder_is_a_series_with_the_folders_name(here, capsys, real_data, monkeypatch):
    coarse = tiny_model(here / "model", plan=tiny_plan(spacing_mm=[6.0] * 3))
    study = real_data / "hippocampus_dicom" / "Study1"
    (here / "Study 1").mkdir()
    for file in study.iterdir():
        (here / "Study 1" / file.name).symlink_to(file)
    monkeypatch.chdir(here / "Study 1")
    given = ("infer", "--model", coarse, "--device", "cpu", "-q")
    assert Done(capsys, *given, ".").out == f"{here}/Study 1_seg.nii.gz\n"
    assert Done(capsys, *given, "../Study 1", "-o", "../out").out == "../out/Study 1_seg.nii.gz\n"


# Interruptions.


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped")]
)
def test_a_signal_ends_with_its_exit_code_and_leaves_nothing(here, infer, monkeypatch, number, code, word):
    real = type(here).replace

    def signalled(path, target):
        os.kill(os.getpid(), number)
        return real(path, target)

    scan = write_scan(here / "x.nii.gz")
    monkeypatch.setattr(type(here), "replace", signalled)
    before = signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        done = infer("-q", scan)
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert (done.code, done.message) == (code, f"{word}\n")
    assert files_in(here) == {"x.nii.gz"}
    assert signal.getsignal(signal.SIGTERM) is before


def test_memory_that_runs_out_is_exit_5_by_name(here, infer, monkeypatch):
    def too_large(paths, **options):
        raise MemoryError

    monkeypatch.setattr(segmenter, "open_scan", too_large)
    done = infer("-q", write_scan(here / "x.nii.gz"))
    assert done.code == 5
    assert done.message.startswith(f"{here}/x.nii.gz: cpu: out of memory; crop the scan")


def test_debug_shows_where_an_error_arose(here, capsys, model):
    (here / "x.nii.gz").write_bytes(b"")
    arguments = ["infer", str(here / "x.nii.gz"), "--model", str(model), "--device", "cpu", "--debug", "-q"]
    with pytest.raises(Exception, match="empty"):
        run(arguments)


@pytest.mark.parametrize("name", ["l" * 248, "\u00e4" * 124])
def test_a_scan_with_the_longest_possible_name_is_segmented(here, infer, name):
    scan = write_scan(here / f"{name}.nii.gz")
    assert len(os.fsencode(scan.name)) == 255
    done = infer(scan, "-o", here / "out", "-q", "--stats")
    assert done.code == 0
    written = sorted(path.name for path in (here / "out").iterdir())
    assert [re.sub(name[0] + "+-[0-9a-f]{12}", "X", found) for found in written] == [
        *("X_seg.json", "X_seg.nii.gz", "X_seg_stats.csv", "X_seg_stats.json")
    ]
