"""The user's models: packed, fetched from a server that misbehaves, verified before they get a name, and removed."""

import io
import json
import re
import stat
import zipfile

import pytest

from medseg.cli.app import run
from medseg.core.errors import ConfigError, DataError, ModelError, OutputError, ResourceError
from medseg.core.files import sha256_of
from medseg.io import download as downloading
from medseg.io import model_archive
from medseg.models import installed
from medseg.models.model_json import read_card
from medseg.workflows.models import pack, pull
from tests.io.faulty_server import Faults, serving
from tests.models.tiny_model import tiny_model, write_scan

VALIDATION = {"fold_0": {"cases": 5, "dice": {"liver": 0.9, "tumour": 0.8}, "dice_interval": {"liver": [0.85, 0.93]}}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("made") / "model", folds=2, validation=VALIDATION)


@pytest.fixture(scope="module")
def packed(model):
    (model / "openvino_cache.bin").write_bytes(b"what a backend keeps beside a model")
    pack(model, model.parent / "liver.medseg")
    return model.parent / "liver.medseg"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """This user's models folder."""
    monkeypatch.setattr(installed.platformdirs, "user_data_dir", lambda *given, **how: str(tmp_path / "data"))
    monkeypatch.setattr(downloading, "_WAIT_SECONDS", 0.0)
    return tmp_path / "data" / "models"


@pytest.fixture
def server(packed):
    with serving(Faults({"/liver.medseg": packed.read_bytes()})) as faults:
        yield faults


def names_in(place):
    return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


def test_equal_models_make_equal_files_without_what_else_lies_there(model, packed, tmp_path):
    again = tiny_model(tmp_path / "again", folds=2, validation=VALIDATION)
    assert pack(again, tmp_path / "again.zip") == sha256_of(packed) == sha256_of(tmp_path / "again.zip")
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["README.md", "fold_0.safetensors", "fold_1.safetensors", "model.json"]
    with pytest.raises(OutputError, match="--force"):
        pack(model, packed)
    with pytest.raises(ConfigError, match=r"\.medseg or \.zip"):
        pack(model, tmp_path / "model.tar")


def test_a_pulled_model_is_found_by_its_name_until_it_is_removed(model, packed, place, tmp_path, capsys):
    scan, digest = write_scan(tmp_path / "scan.nii.gz"), sha256_of(packed)
    assert run(["models", "pull", str(packed), "--sha256", digest.upper()]) == 0
    assert capsys.readouterr().out == f"{place / 'liver'}\n"
    for given, output in (("liver", "by_name"), (str(model), "by_path")):
        assert run(["infer", str(scan), "--model", given, "--output", str(tmp_path / output), "--device", "cpu"]) == 0
    one, other = (tmp_path / name / "scan_seg.nii.gz" for name in ("by_name", "by_path"))
    assert sha256_of(one) == sha256_of(other)
    capsys.readouterr()
    for library in ("openvino", "onnxruntime"):
        (place / f"liver.{library}" / "2026-0").mkdir(parents=True)
    assert run(["models", "info", "liver", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["structures"] == {"liver": 1, "tumour": 2}
    assert told["sha256"] == sha256_of(model / "model.json")
    assert told["validation"] == VALIDATION
    assert run(["models", "list"]) == 0
    assert re.search(r"liver .*MR .*liver, tumour .*1 x 1.5 x 2 .*0.850", capsys.readouterr().out)
    assert run(["models", "remove", "liver"]) == 2  # nobody to ask
    assert names_in(place) == ["liver", "liver.onnxruntime", "liver.openvino"]
    assert run(["models", "remove", "liver", "--yes"]) == 0
    assert names_in(place) == []
    assert run(["models", "info", "liver"]) == 3


def test_without_a_choice_the_only_installed_model_is_taken_and_of_several_none(packed, place, tmp_path):
    pull(str(packed), name="one")
    assert installed.find_model(None, runs=tmp_path / "runs") == place / "one"
    pull(str(packed), name="two")
    with pytest.raises(ConfigError, match="one, two"):
        installed.find_model(None, runs=tmp_path / "runs")


def test_a_download_that_breaks_goes_on_where_it_stopped(server, packed, place):
    server.cuts = [1000, 2000]
    found = pull(f"{server.url}/liver.medseg?token=secret", sha256=sha256_of(packed))
    assert [asked for _, asked in server.asked] == [None, "bytes=1000-", "bytes=3000-"]
    assert found.notes == ()
    assert read_card(place / "liver").name == "tiny"
    assert "secret" not in (place / "liver" / "pulled.json").read_text()
    assert names_in(place / ".downloads") == []


def test_a_later_run_goes_on_where_an_interrupted_one_stopped(server, place):
    server.cuts = [1000] * 5
    with pytest.raises(DataError, match=r"5000 bytes came and are kept: run the same command again"):
        pull(f"{server.url}/liver.medseg")
    assert names_in(place) == [".downloads"]
    pull(f"{server.url}/liver.medseg")
    assert server.asked[-1][1] == "bytes=5000-"
    assert names_in(place) == [".downloads", "liver"]


@pytest.mark.parametrize("fault", ["ignores_range", "another_version", "no_validator", "busy"])
def test_servers_that_do_it_otherwise_give_the_whole_file_too(server, packed, place, fault):
    server.cuts = [1000]
    if fault == "ignores_range":
        server.ignores_range = True
    elif fault == "no_validator":
        server.etag = None
    elif fault == "busy":
        server.statuses = [503, 429]
    else:
        server.cuts = [1000] * 5
        with pytest.raises(DataError):
            pull(f"{server.url}/liver.medseg")
        server.etag = '"two"'
    found = pull(f"{server.url}/liver.medseg")
    assert found.sha256 == sha256_of(packed)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"content_type": "text/html"}, "a web page"),
        ({"files": {"/liver.medseg": b"\n<!DOCTYPE html><html>log in</html>"}}, "a web page"),
        ({"files": {}}, "404"),
        ({"statuses": [403]}, "login"),
        ({"files": {"/liver.medseg": b"not a zip"}}, "no sound zip archive"),
        ({"redirects": {"/liver.medseg": "http://example.org/liver.medseg"}}, "not an https address"),
        ({"redirects": {"/liver.medseg": "file:///etc/passwd"}}, "is not allowed"),
    ],
)
def test_what_is_no_model_is_refused_and_leaves_nothing(server, place, capsys, fault, words):
    for key, value in fault.items():
        setattr(server, key, value)
    assert run(["models", "pull", f"{server.url}/liver.medseg", "--quiet"]) in (2, 3)
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not any(path.is_file() and path.name != "run.lock" for path in place.rglob("*.part*"))
    assert names_in(place) == [".downloads"]


def test_another_file_than_the_hash_says_is_removed(server, packed, place):
    with pytest.raises(DataError, match=f"its sha256 is {sha256_of(packed)}, expected {'0' * 64}"):
        pull(f"{server.url}/liver.medseg", sha256="0" * 64)
    with pytest.raises(DataError, match="expected"):
        pull(str(packed), sha256="0" * 64)
    assert not list(place.rglob("*.part"))


@pytest.mark.parametrize("says_length", [True, False])
def test_a_file_over_the_limit_is_not_taken(server, place, tmp_path, says_length):
    server.says_length = says_length
    wanted = downloading.Download(f"{server.url}/liver.medseg", tmp_path / "a.part", None, 5000)
    with pytest.raises(DataError, match="too large"):
        downloading.download(wanted)
    assert not wanted.part.exists()


def test_a_full_disk_is_said_before_the_file_comes(server, place, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 100}))
    with pytest.raises(ResourceError, match="100 are free"):
        pull(f"{server.url}/liver.medseg")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["http://example.org/a.medseg"], 2, "not an https address"),
        (["ftp://example.org/a.medseg"], 2, "not an https address"),
        (["https://me:secret@example.org/a.medseg"], 2, "user or a password"),
        (["hf://owner"], 2, "hf://owner/name"),
        (["liver.medseg", "--sha256", "abc"], 2, "64 hexadecimal digits"),
        (["liver.medseg", "--name", "../liver"], 2, "no name for a model"),
        (["nowhere.medseg"], 3, "not found"),
    ],
)
def test_a_source_that_is_none_is_refused_before_anything_is_asked(place, capsys, arguments, code, words):
    assert run(["models", "pull", *arguments]) == code
    error = capsys.readouterr().err
    assert words in error
    assert "secret" not in error


def test_a_name_that_is_taken_stays_unless_forced(packed, place):
    pull(str(packed))
    with pytest.raises(OutputError, match="--force"):
        pull(str(packed))
    assert pull(str(packed), force=True).name == "liver"


def test_a_repository_of_the_hub_is_a_model_folder(model, place):
    files = {f"/owner/liver/resolve/v1.0/{p.name}": p.read_bytes() for p in model.iterdir() if p.suffix != ".bin"}
    with serving(Faults(files, cuts=[10])) as server:
        found = pull("hf://owner/liver@v1.0", hub=server.url, sha256=sha256_of(model / "model.json"))
        assert found.name == "liver"
        assert {p.name for p in (place / "liver").iterdir()} == {p.name for p in model.iterdir()} - {
            "openvino_cache.bin"
        } | {"pulled.json"}
        server.files["/owner/liver/resolve/v1.0/fold_1.safetensors"] = b"\0" * 100
        with pytest.raises(DataError, match=r"fold_1.safetensors: its sha256"):
            pull("hf://owner/liver@v1.0", hub=server.url, name="other")
        server.files["/owner/liver/resolve/v1.0/model.json"] = b'{"weights": {"../evil.safetensors": "00"}}'
        with pytest.raises(ModelError, match="plain names"):
            pull("hf://owner/liver@v1.0", hub=server.url, name="other")
    assert names_in(place) == [".downloads", "liver"]


def _repacked(packed, change):
    """The packed model with its members changed: ``change(members)`` on ``{name or ZipInfo: bytes}``."""
    with zipfile.ZipFile(packed) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def _link():
    info = zipfile.ZipInfo("fold_2.safetensors")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update({"../evil.safetensors": b"x"}), "may lead outside"),
        (lambda m: m.update({"/tmp/evil.safetensors": b"x"}), "absolute"),
        (lambda m: m.update({_link(): b"/etc/passwd"}), "a link"),
        (lambda m: m.update({"fold_2.safetensors": bytes(50_000)}), "too large"),
        (lambda m: m.pop("model.json"), "no model.json"),
        (lambda m: m.update({"other/model.json": b"{}"}), "2 files called model.json"),
        (lambda m: m.pop("fold_1.safetensors"), "fold_1.safetensors: weights file missing"),
        (lambda m: m.update({"fold_1.safetensors": m["fold_0.safetensors"]}), "sha256"),
        (lambda m: m.update({"model.json": b"{}"}), "not a model.json"),
    ],
)
def test_an_archive_that_is_hostile_or_damaged_gets_no_name(
    packed, place, tmp_path, capsys, monkeypatch, change, words
):
    monkeypatch.setattr(model_archive, "MOST_MODEL_BYTES", 40_000)
    (tmp_path / "bad.zip").write_bytes(_repacked(packed, change))
    assert run(["models", "pull", str(tmp_path / "bad.zip")]) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"medseg: error: {tmp_path / 'bad.zip'}")
    assert words in error
    assert error.count("\n") == 1
    assert names_in(place) == []


def test_a_model_in_a_folder_of_an_archive_is_found_and_what_else_lies_there_is_ignored(packed, place, tmp_path):
    def into_a_folder(members):
        inside = {f"liver-1.0/{name}": data for name, data in members.items()}
        members.clear()
        members.update(inside | {"liver-1.0/run.py": b"import os", "liver-1.0/deep/fold_0.safetensors": b"x"})

    (tmp_path / "release.zip").write_bytes(_repacked(packed, into_a_folder))
    found = pull(str(tmp_path / "release.zip"))
    assert "2 other file(s)" in found.notes[0]
    assert not list(place.rglob("*.py"))


def test_every_verb_says_in_json_what_it_did(model, packed, place, tmp_path, capsys):
    def said(*words):
        assert run(["models", *map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    digest = sha256_of(packed)
    again = said("pack", model, tmp_path / "again.zip")
    assert again == {"file": str(tmp_path / "again.zip"), "bytes": packed.stat().st_size, "sha256": digest}
    pulled = said("pull", packed, "--name", "liver")
    assert (pulled["name"], pulled["folder"], pulled["sha256"]) == ("liver", str(place / "liver"), digest)
    assert digest in pulled["notes"][0]
    assert [one["name"] for one in said("list")["models"]] == ["liver"]
    assert said("info", "liver")["presets"] == {}
    assert said("remove", "liver", "--yes") == {"name": "liver", "removed": str(place / "liver")}
    assert said("list")["models"] == []
