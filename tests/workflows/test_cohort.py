"""A cohort: each case once, whatever happens; the same files as one scan at a time."""

import csv
import errno
import hashlib
import json
import os
import shutil
import signal
import sqlite3

import numpy as np
import pytest

from medseg.core import files
from medseg.core.component import Component
from medseg.core.errors import ConfigError, DataError, DiskFullError, Interrupted, OutputError
from medseg.core.lock import run_lock
from medseg.inference.settings import InferenceOptions
from medseg.workflows import infer_case
from medseg.workflows.cohort import cohort
from medseg.workflows.cohort_case import Common, Order, run_one, why_no_record
from medseg.workflows.infer import infer
from tests.models.tiny_model import texture, tiny_model, tiny_plan, tiny_states, write_scan

STEPS = {"liver": (Component(name="largest_component"),)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def scans(tmp_path):
    """Three scans, one of them in a folder below."""
    folder = tmp_path / "scans"
    for n, name in enumerate(("a.nii.gz", "b.nii", "deep/a.nii.gz")):
        write_scan(folder / name, texture(seed=n))
    return folder


@pytest.fixture
def run(model, scans, tmp_path):
    """The cohort of ``scans`` into ``out``; what was told and said is in ``run.told`` and ``run.said``."""

    def once(*inputs, **changes):
        once.told, once.said = [], []
        options = {"output": tmp_path / "out", "model": model, "device": "cpu"} | changes
        return cohort(list(inputs) or [scans], **{"tell": once.told.append, "say": once.said.append} | options)

    return once


def content(folder):
    """The hash of every file but those that hold times."""
    kept = [path for path in folder.rglob("*") if path.is_file() and path.name.endswith((".nii.gz", ".png"))]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def without_times(folder):
    """results.json but for what is measured or says when."""
    found = json.loads((folder / "results.json").read_text())
    del found["provenance"]
    for case in found["cases"]:
        del case["seconds"]
        case["outputs"] = {name: digest for name, digest in case["outputs"].items() if not name.endswith(".json")}
    return found


def made(records):
    return [record["case"] for record in records if record["status"] == "done"]


def test_a_folder_gives_the_files_of_one_scan_at_a_time(run, model, scans, tmp_path):
    found = run()
    assert list(found.records) == made(run.told) == ["a", "b", "deep/a"]
    for scan, place in ((scans / "a.nii.gz", ""), (scans / "b.nii", ""), (scans / "deep" / "a.nii.gz", "deep")):
        infer(scan, model=model, output=tmp_path / "single" / place, device="cpu")
    assert content(tmp_path / "out") == content(tmp_path / "single")
    assert len(content(tmp_path / "out")) == 3
    ours, theirs = (json.loads((tmp_path / f / "a_seg.json").read_text()) for f in ("out", "single"))
    for one in (ours, theirs):
        del one["seconds"], one["provenance"], one["label_map"]["path"]
    assert ours == theirs


def test_a_limit_of_memory_leaves_one_case_at_a_time_and_the_same_files(run, tmp_path, monkeypatch):
    run()
    inside, real = [], {stage: getattr(infer_case.Job, stage) for stage in ("read", "write")}
    monkeypatch.setattr(infer_case.Job, "read", lambda *a: inside.append("read") or real["read"](*a))
    monkeypatch.setattr(infer_case.Job, "write", lambda *a: inside.append("write") or real["write"](*a))
    run(output=tmp_path / "alone", settings=InferenceOptions(max_memory=2**36))
    assert inside == ["read", "write"] * 3
    assert content(tmp_path / "alone") == content(tmp_path / "out")


def test_another_limit_of_memory_does_not_go_on_where_it_may_decide_how_sums_are_made(run, tmp_path):
    """f32, or f16 where the memory needs it: cases of both kinds under one name would differ without a word."""

    def limited(most, **more):
        return run(settings=InferenceOptions(max_memory=most, **more))

    assert limited(2**36).again == 0
    assert limited(2**36).again == 3
    for other, now in ((2**35, f"auto, f16 where max_memory={2**35} needs it"), (None, "auto")):
        with pytest.raises(OutputError, match=f'max_memory={2**36} needs it", but this run has .*="{now}"') as refused:
            limited(other)
        assert refused.value.exit_code == 4
    made = json.loads((tmp_path / "out" / "a_seg.json").read_text())["settings"]
    assert (made["accumulators"], made["max_memory"]) == ("f32", 2**36)
    assert run(force=True, settings=InferenceOptions(accumulators="f16")).again == 0
    assert limited(2**36, accumulators="f16").again == 3
    assert json.loads((tmp_path / "out" / "a_seg.json").read_text())["settings"]["accumulators"] == "f16"


def test_a_second_run_does_nothing_again_and_new_scans_are_new_cases(run, scans, tmp_path):
    run()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*_seg*")}
    assert run().again == 3
    assert run.told == []
    write_scan(scans / "c.nii.gz", texture(seed=9))
    assert run().again == 3
    assert made(run.told) == ["c"]
    assert before.items() <= {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*_seg*")}.items()


def test_a_bad_case_is_reported_and_the_rest_goes_on(run, scans, tmp_path):
    (scans / "bad.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes()[:-20])
    write_scan(scans / "two.nii.gz", np.stack([texture(), texture()], axis=-1))
    found = run()
    assert found.failed == 2
    assert made(run.told) == ["a", "b", "deep/a"]
    assert "truncated" in found.records["bad"]["error"]
    assert "2 channels" in found.records["two"]["error"]
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))
    assert [(row["case"], row["status"]) for row in rows] == [
        *(("a", "done"), ("b", "done"), ("bad", "failed"), ("deep/a", "done"), ("two", "failed"))
    ]
    manifest = json.loads((tmp_path / "out" / "a_seg.json").read_text())
    assert float(rows[0]["volume_ml_liver"]) == manifest["volumes_ml"]["liver"]
    assert rows[0]["label_map"] == "a_seg.nii.gz"
    assert found.content["counts"] == {"done": 3, "failed": 2, "pending": 0}
    (scans / "bad.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes())
    run()
    assert made(run.told) == ["bad"]


def test_a_scan_that_was_done_and_is_damaged_now_says_whose_the_files_are(run, scans, tmp_path):
    run()
    (scans / "a.nii.gz").write_bytes(b"")
    found = run()
    assert "a_seg.nii.gz is still that of an earlier scan" in found.records["a"]["error"]
    assert found.content["counts"] == {"done": 2, "failed": 1, "pending": 0}


@pytest.mark.parametrize("change", ["scan", "label map", "manifest", "gone", "pipe"])
def test_what_does_not_match_its_record_is_done_again_and_said(run, scans, tmp_path, change):
    run()
    whole = content(tmp_path / "out")
    seg = tmp_path / "out" / "a_seg.nii.gz"
    if change == "scan":
        write_scan(scans / "a.nii.gz", texture(seed=8))
    elif change == "label map":
        seg.write_bytes(b"x")
    elif change == "manifest":
        (tmp_path / "out" / "a_seg.json").write_text("{}")
    else:
        seg.unlink()
        if change == "pipe":
            os.mkfifo(seg)
    run()
    assert made(run.told) == ["a"]
    words = {"scan": "its scan changed since", "gone": "a_seg.nii.gz is not there any more"}
    assert any(f"a: {words.get(change, 'changed since')}" in line or "changed since" in line for line in run.said)
    assert (content(tmp_path / "out") == whole) is (change != "scan")


def test_voxels_beside_a_header_are_part_of_the_scan(run, tmp_path):
    scan = write_scan(tmp_path / "pair" / "x.hdr")
    run(scan.parent)
    write_scan(scan, texture(seed=5))
    run(scan.parent)
    assert made(run.told) == ["x"]
    run(scan.parent)
    assert made(run.told) == []


def test_another_model_or_other_settings_are_refused_naming_both(run, model, tmp_path):
    run()
    other = tiny_model(tmp_path / "other", name="other")
    with pytest.raises(OutputError, match=r'begun with model name="tiny".*this run has model name="other"'):
        run(model=other)
    with pytest.raises(OutputError, match=r"begun with settings overlap=0\.5, but this run has settings overlap=0\.25"):
        run(settings=InferenceOptions(overlap=0.25))
    with pytest.raises(OutputError, match=r'outputs=\[\], but this run has settings outputs=\["stats"\]'):
        run(also=["stats"])
    with pytest.raises(
        OutputError, match=r'postprocess={}, but this run has settings postprocess={"liver": .*largest_comp'
    ):
        run(settings=InferenceOptions(postprocess=STEPS))
    assert run().again == 3
    assert run(model=other, force=True).again == 0
    assert made(run.told) == ["a", "b", "deep/a"]


@pytest.fixture
def changed(model, tmp_path):
    """A copy of the model in which parts of model.json are others."""

    def copy(**parts):
        folder = shutil.copytree(model, tmp_path / f"copy{len(list(tmp_path.iterdir()))}")
        card = json.loads((folder / "model.json").read_text())
        for part, content in parts.items():
            card[part] = card[part] | content if isinstance(content, dict) else content
        (folder / "model.json").write_text(json.dumps(card))
        return folder

    return copy


PRESET = {
    **{"overlap": 0.0, "mean_dice": 0.5, "dice": {}, "seconds_per_scan": 1.0},
    **{"cases": 1, "measured_on": "validation cases", "machine": "a CPU"},
}


def test_a_model_is_what_decides_its_label_maps_wherever_it_lies(run, changed, tmp_path):
    run()
    tuned = changed(inference={"presets": {"fast": PRESET}}, validation={"fold_0": {}}, licence="CC0", created="now")
    assert run(model=tuned).again == 3
    found = json.loads((tmp_path / "out" / "results.json").read_text())["model"]
    assert found["sha256"] == hashlib.sha256((tuned / "model.json").read_bytes()).hexdigest()
    with pytest.raises(OutputError, match=r"begun with settings overlap=0\.5, but this run has settings overlap=0\.0"):
        run(model=tuned, settings=InferenceOptions(preset="fast"))
    with pytest.raises(OutputError, match=r'begun with model plan="'):
        run(model=changed(plan={"spacing_mm": [1.0, 1.5, 2.5]}))
    with pytest.raises(OutputError, match=r'begun with model structures="'):
        run(model=changed(structures={"liver": {"colour": "#123456"}}))
    with pytest.raises(OutputError, match=r"begun with settings mirror_labels="):
        run(model=changed(inference={"mirror_labels": "kept"}))
    other = tiny_model(tmp_path / "other", states=tiny_states(tiny_plan(), 2))
    with pytest.raises(OutputError, match=r'begun with model weights={"fold_0": "\w{16}"}, but'):
        run(model=other)
    assert run().again == 3


def test_a_journal_of_the_first_kind_goes_on_with_the_same_model_json_alone(run, model, changed, tmp_path):
    run()
    with sqlite3.connect(tmp_path / "out" / "journal.sqlite") as raw:
        first = {"name": "tiny", "sha256": hashlib.sha256((model / "model.json").read_bytes()).hexdigest()}
        raw.execute("UPDATE run SET value = ? WHERE key = 'model'", [json.dumps(first)])
    raw.close()
    with pytest.raises(OutputError, match=f'begun with model sha256="{first["sha256"]}", but this run has model sha'):
        run(model=changed(licence="CC0"))
    assert run().again == 3
    assert run(model=changed(licence="CC0")).again == 3


FORGED = [
    *({"seconds": value} for value in ("x", {"read": "x"}, {"read": 10**400}, None)),
    *({"outputs": value} for value in ([], {"/etc/passwd": "12"}, {"../a": "12"}, {"a": 1}, {"\0": "12"})),
    *({"scan": value} for value in ([], ["x"], [{"path": 1}])),
    *({"case": "b"}, {"status": "failed"}, {"error": 5}, {"warnings": [1]}, {"label_map": "../x"}, {"more": 1}),
    *({"predicted_dice": value} for value in ([], {"liver": 1}, {"liver": {"dice": "x"}})),
]


def test_a_record_that_no_run_wrote_is_told_and_nothing_is_done(run, scans, tmp_path):
    record = run(scans / "a.nii.gz").records["a"]
    assert why_no_record(record, "a") == ""
    first = {key: value for key, value in record.items() if key not in ("review", "predicted_dice")}
    assert why_no_record(first, "a") == "", "as the first journals have it"
    for change in FORGED:
        assert why_no_record(record | change, "a") != "", change
    for part in first:
        assert why_no_record({key: value for key, value in record.items() if key != part}, "a") != "", part
    journal, results = (tmp_path / "out" / name for name in ("journal.sqlite", "results.json"))
    text = json.dumps(record | {"seconds": "x"})
    with sqlite3.connect(journal) as raw:
        raw.execute("UPDATE cases SET record = ?, sha256 = ?", [text, hashlib.sha256(text.encode()).hexdigest()])
    raw.close()
    before = [journal.read_bytes(), results.read_bytes()]
    with pytest.raises(
        OutputError, match=r"not one of medseg's \(the record of case a: its part 'seconds' is 'x'\).*--force"
    ):
        run()
    assert [journal.read_bytes(), results.read_bytes()] == before
    assert run(force=True).again == 0


def test_a_file_that_no_run_made_is_never_overwritten(run, tmp_path):
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "b_seg.nii.gz"
    mine.write_text("mine")
    with pytest.raises(OutputError, match=r"b_seg\.nii\.gz: exists already"):
        run()
    assert mine.read_text() == "mine"
    assert not (tmp_path / "out" / "a_seg.nii.gz").exists()
    mine.rename(tmp_path / "out" / "results.csv")
    with pytest.raises(OutputError, match=r"results\.csv: is there already"):
        run()
    assert (tmp_path / "out" / "results.csv").read_text() == "mine"
    run(force=True)
    assert (tmp_path / "out" / "results.csv").read_bytes() != b"mine"


def test_an_output_in_use_is_refused_naming_the_owner(run, tmp_path):
    (tmp_path / "out").mkdir()
    with run_lock(tmp_path / "out"), pytest.raises(OutputError, match=f"held by another run .process {os.getpid()}"):
        run()


def test_what_concerns_all_is_told_before_any_work(run, scans, tmp_path):
    with pytest.raises(ConfigError, match="would both be case"):
        run(scans, scans / "a.nii.gz")
    with pytest.raises(ConfigError, match="give a folder"):
        run(output=tmp_path / "out.nii.gz")
    with pytest.raises(DataError, match="no scan matches"):
        run(tmp_path / "*.mha")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("can't allocate memory"), ValueError("a bug")])
def test_a_case_that_the_memory_or_a_bug_ends_is_reported_and_the_next_goes_on(run, monkeypatch, failure):
    real = infer_case.Job.segment

    def segment(self, opened, progress, target):
        if opened.channels[0].name == "b.nii":
            with self.segmenter.enough_memory(str(opened.channels[0])):
                raise failure
        return real(self, opened, progress, target)

    monkeypatch.setattr(infer_case.Job, "segment", segment)
    found = run()
    assert made(run.told) == ["a", "deep/a"]
    words = "unexpected ValueError: a bug" if isinstance(failure, ValueError) else "out of memory"
    assert words in found.records["b"]["error"]


@pytest.mark.parametrize("full_for", [3, 10**9])
def test_a_full_disk_ends_the_run_with_all_that_was_done_recorded(run, tmp_path, monkeypatch, full_for):
    run()
    expected = content(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    real, left = os.fsync, [7]

    def fsync(handle):
        left[0] -= 1
        if -full_for <= left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fsync)
        with pytest.raises(DiskFullError, match="disk is full"):
            run()
    done = made(run.told)
    assert done
    assert len(done) < 3
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert run().again == len(done)
    assert content(tmp_path / "out") == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_between_two_windows_and_the_run_goes_on_later(run, tmp_path, number):
    run()
    expected, whole = content(tmp_path / "out"), without_times(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")

    def progress(stage, done, total):
        if stage.endswith(": windows") and made(run.told) == ["a"]:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="run the same command again") as caught:
        run(progress=progress)
    assert caught.value.exit_code == 128 + number
    counts = json.loads((tmp_path / "out" / "results.json").read_text())["counts"]
    assert counts["done"] >= 1
    assert counts["pending"] == 3 - counts["done"]
    assert run().again == counts["done"]
    assert content(tmp_path / "out") == expected
    assert without_times(tmp_path / "out") == whole


def test_channel_files_of_a_case_are_one_and_a_lone_one_fails(tmp_path):
    two = tiny_model(tmp_path / "two", plan=tiny_plan(channels=2, intensity=[{"scheme": "z_score"}] * 2))
    for n, name in enumerate(("p_0000", "p_0001", "q_0001")):
        write_scan(tmp_path / "scans" / f"{name}.nii.gz", texture(seed=n))
    found = cohort([tmp_path / "scans"], output=tmp_path / "out", model=two, device="cpu")
    assert found.records["p"]["status"] == "done"
    assert "channel q_0000 is missing" in found.records["q"]["error"]
    single = infer(
        [tmp_path / "scans" / f"p_000{n}.nii.gz" for n in (0, 1)], model=two, output=tmp_path / "p.nii.gz", device="cpu"
    )
    assert single.path.read_bytes() == (tmp_path / "out" / "p_seg.nii.gz").read_bytes()


def test_an_order_and_its_record_are_json_and_do_what_the_cohort_does(run, model, scans, tmp_path):
    run()
    common = Common(str(model), str(tmp_path / "far"), "cpu", settings=InferenceOptions(mirror=(1,), postprocess=STEPS))
    assert Common.from_json(json.loads(json.dumps(common.as_json()))) == common
    common = Common(str(model), str(tmp_path / "far"), "cpu")
    order = Order("a", (str(scans / "a.nii.gz"),), str(tmp_path / "far" / "a_seg.nii.gz"))
    record = run_one(common, common.load(), order)
    assert json.loads(json.dumps(record)) == record
    assert record["outputs"]["a_seg.nii.gz"] == content(tmp_path / "out")["a_seg.nii.gz"]
    missing = run_one(
        common, common.load(), Order("x", (str(scans / "x.nii.gz"),), str(tmp_path / "far" / "x_seg.nii.gz"))
    )
    assert (missing["status"], "not found" in missing["error"]) == ("failed", True)


def test_real_scans_of_two_formats_are_one_cohort(real_data, tmp_path):
    model = tiny_model(tmp_path / "model", plan=tiny_plan(patch_size=[32, 32, 32]))
    scans = [real_data / "Task04_Hippocampus" / "imagesTr" / f"hippocampus_{n}.nii.gz" for n in ("001", "003")]
    inputs = [*scans, real_data / "hippocampus_dicom" / "Study1"]
    found = cohort(inputs, output=tmp_path / "out", model=model, device="cpu")
    assert list(found.records) == ["Study1", "hippocampus_001", "hippocampus_003"]
    assert {record["status"] for record in found.records.values()} == {"done"}
    single = infer(scans[0], model=model, output=tmp_path / "one.nii.gz", device="cpu")
    assert single.path.read_bytes() == (tmp_path / "out" / "hippocampus_001_seg.nii.gz").read_bytes()
