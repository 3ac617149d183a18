import errno
import hashlib
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from medseg.core import files
from medseg.core.errors import DiskFullError, MedsegError, OutputError, ResourceError
from medseg.core.files import (
    check_writable,
    is_there,
    make_folder,
    sha256_of,
    staged_folder,
    write_durable,
    write_json,
    write_text,
    write_together,
)
from medseg.core.lock import run_lock

FULL = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG]
BARRED = [errno.EROFS, errno.EACCES, errno.EPERM]
STEPS = ["open", "write", "fsync", "replace"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def failing(monkeypatch, step, number):
    """``step`` of writing raises OSError ``number`` for the block."""

    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        if step == "fsync":
            patch.setattr(files.os, "fsync", fail)
        elif step == "replace":
            patch.setattr(Path, "replace", fail)
            patch.setattr(Path, "rename", fail)
        else:
            real = Path.open

            def open_badly(path, mode="r", *arguments, **options):
                if mode != "wb":
                    return real(path, mode, *arguments, **options)
                if step == "open":
                    fail()
                file = real(path, mode, buffering=0)
                file.write(b"half")
                file.close()
                return FullFile(fail)

            patch.setattr(Path, "open", open_badly)
            patch.setattr(Path, "write_bytes", fail)
        yield


class FullFile:
    """A file that takes no byte."""

    def __init__(self, fail):
        self.write = fail

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        pass


def test_a_written_file_holds_the_bytes_and_gives_their_hash(tmp_path):
    path = tmp_path / "new" / "folders" / "x.bin"
    assert write_durable(path, b"content") == hashlib.sha256(b"content").hexdigest() == sha256_of(path)
    write_durable(path, lambda temporary: temporary.write_bytes(b"other") and None)
    assert path.read_bytes() == b"other"
    assert names(path.parent) == ["x.bin"]


@pytest.mark.parametrize("number", FULL + BARRED + [errno.EIO])
@pytest.mark.parametrize("step", STEPS)
def test_whatever_fails_while_writing_the_old_file_stands_and_nothing_else(tmp_path, monkeypatch, step, number):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with failing(monkeypatch, step, number), pytest.raises(MedsegError) as caught:
        write_durable(path, b"new content")
    assert type(caught.value) is (DiskFullError if number in FULL else OutputError)
    assert caught.value.exit_code == (5 if number in FULL else 4)
    assert str(path) in str(caught.value)
    assert ("disk is full" in str(caught.value)) is (number in FULL)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


def test_a_disk_that_lies_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "sha256_of", lambda path: "another hash")
    with pytest.raises(ResourceError, match="does not read back equal"):
        write_durable(tmp_path / "x.bin", b"content")
    assert names(tmp_path) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError, ZeroDivisionError])
def test_an_exception_of_the_writer_leaves_nothing(tmp_path, interruption):
    def write_half(temporary):
        temporary.write_bytes(b"half")
        raise interruption

    with pytest.raises(interruption):
        write_durable(tmp_path / "x.bin", write_half)
    assert names(tmp_path) == []


def test_a_real_limit_on_the_file_size_is_a_full_disk(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "x.bin").write_bytes(b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(ResourceError, match=r"disk is full .* MiB free"):
            write_durable(tmp_path / "x.bin", bytes(20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "x.bin").read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


def test_files_that_belong_together_are_written_all_or_none(tmp_path, monkeypatch):
    one, other = tmp_path / "a.nii.gz", tmp_path / "a.json"
    write_together({one: b"1", other: b"2"})
    assert (one.read_bytes(), other.read_bytes()) == (b"1", b"2")
    real, calls = os.fsync, []

    def second_fails(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(files.os, "fsync", second_fails)
    with pytest.raises(ResourceError, match=r"a\.json: the disk is full"):
        write_together({one: b"new", other: b"new"})
    assert (one.read_bytes(), other.read_bytes()) == (b"1", b"2")
    assert names(tmp_path) == ["a.json", "a.nii.gz"]


@pytest.mark.parametrize("name", ["a" * 255, "界" * 85, "x" * 244 + "_seg.nii.gz", os.fsdecode(b"\xff" * 255)])
def test_the_longest_names_can_be_written(tmp_path, name):
    write_together({tmp_path / name: b"1", tmp_path / (name[:-1] + "y"): b"2"})
    assert (tmp_path / name).read_bytes() == b"1"
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("name", ["x.txt", "[a]*?.txt", "y" * 250])
def test_what_a_killed_process_left_of_the_same_files_is_cleared(tmp_path, monkeypatch, name):
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "getpid", lambda: 999999999)
        left = files._temporary(tmp_path / name)
    running, other = (
        left.with_name(left.name.replace("999999999", str(os.getppid()))),
        tmp_path / ".z.txt.999999999.tmp",
    )
    for path in (left, running, other):
        path.write_text("half")
    write_together({tmp_path / name: b"1"})
    assert names(tmp_path) == sorted([name, running.name, other.name])


def test_json_keeps_words_and_escapes_what_is_no_utf8(tmp_path):
    content = {"Größe": "肝臓", "path": os.fsdecode(b"no\xffutf8")}
    write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "肝臓" in text
    assert json.loads(text) == content
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "nan.json", {"value": float("nan")})
    assert names(tmp_path) == ["x.json"]


def test_the_hash_of_a_folder_is_of_its_names_and_bytes(tmp_path):
    for order, folder in (((1, 2), "a"), ((2, 1), "b")):
        for n in order:
            write_text(tmp_path / folder / "deep" / f"{n}.txt", str(n))
    assert sha256_of(tmp_path / "a") == sha256_of(tmp_path / "b")
    write_text(tmp_path / "b" / "deep" / "2.txt", "3")
    assert sha256_of(tmp_path / "a") != sha256_of(tmp_path / "b")
    (tmp_path / "b" / "deep" / "2.txt").write_text("2")
    (tmp_path / "b" / "deep" / "2.txt").rename(tmp_path / "b" / "deep" / "4.txt")
    assert sha256_of(tmp_path / "a") != sha256_of(tmp_path / "b")


def test_a_place_below_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("x")
    for act in (check_writable, make_folder, lambda folder: write_text(folder / "x.txt", "x")):
        with pytest.raises(OutputError, match="file"):
            act(tmp_path / "file" / "deeper" / "still")


def test_trying_a_place_leaves_nothing(tmp_path):
    check_writable(tmp_path / "not" / "there")
    assert names(tmp_path) == []


@pytest.mark.parametrize(("number", "kind"), [(errno.EROFS, OutputError), (errno.ENOSPC, ResourceError)])
def test_a_place_that_takes_nothing_is_known_before_the_work(tmp_path, monkeypatch, number, kind):
    with failing(monkeypatch, "write", number), pytest.raises(kind):
        check_writable(tmp_path / "not" / "there")
    assert names(tmp_path) == []


def test_a_name_that_no_file_can_have_is_an_output_error(tmp_path):
    assert not is_there(tmp_path / "x")
    with pytest.raises(OutputError, match="too long"):
        is_there(tmp_path / ("x" * 300))


def test_a_staged_folder_appears_whole(tmp_path):
    for content in ("old", "new"):
        with staged_folder(tmp_path / "model") as staging:
            assert not (staging / "model.json").exists()
            write_text(staging / "model.json", content)
        assert (tmp_path / "model" / "model.json").read_text() == content
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError(), OSError(errno.ENOSPC, "No space left")])
def test_a_staged_folder_that_fails_vanishes_and_the_old_one_stays(tmp_path, error):
    with staged_folder(tmp_path / "model") as staging:
        write_text(staging / "model.json", "old")
    expected = ResourceError if isinstance(error, OSError) else type(error)

    def fail_halfway():
        with staged_folder(tmp_path / "model") as staging:
            write_text(staging / "model.json", "new")
            raise error

    with pytest.raises(expected):
        fail_halfway()
    assert (tmp_path / "model" / "model.json").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_staged_folder_that_cannot_take_its_name_gives_the_old_one_back(tmp_path, monkeypatch):
    with staged_folder(tmp_path / "model") as staging:
        write_text(staging / "model.json", "old")
    real, calls = Path.rename, []

    def second_fails(path, target):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.EACCES, "Permission denied")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(OutputError, match="model"), staged_folder(tmp_path / "model") as staging:
        write_text(staging / "model.json", "new")
    assert (tmp_path / "model" / "model.json").read_text() == "old"
    assert names(tmp_path) == ["model"]


DIES = """
import os, sys
from pathlib import Path
from medseg.core import files, lock
folder, work, step, number = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
calls = 0
def dying(real):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == number:
            os._exit(137)
        return real(*arguments, **options)
    return call
if step == "fsync":
    os.fsync = dying(os.fsync)
else:
    Path.replace = dying(Path.replace)
    Path.rename = dying(Path.rename)
with lock.run_lock(folder):
    if work == "file":
        files.write_text(folder / "x.txt", "new")
    else:
        with files.staged_folder(folder / "model") as staging:
            files.write_text(staging / "x.txt", "new")
"""


@pytest.mark.parametrize(
    ("work", "step", "number"),
    [
        *(("file", "fsync", n) for n in (1, 2)),
        ("file", "rename", 1),
        *(("folder", "fsync", n) for n in (1, 2, 3)),
        *(("folder", "rename", n) for n in (1, 2, 3)),
    ],
)
def test_killed_at_any_step_the_next_run_finds_the_old_or_the_new_and_no_leftovers(tmp_path, work, step, number):
    kept = tmp_path / "x.txt" if work == "file" else tmp_path / "model" / "x.txt"
    write_text(kept, "old")
    command = [sys.executable, "-c", DIES, tmp_path, work, step, str(number)]
    done = subprocess.run(command, check=False, timeout=30)
    assert done.returncode == 137
    with run_lock(tmp_path):
        assert kept.read_text() in ("old", "new")
        assert names(tmp_path) == sorted([kept.relative_to(tmp_path).parts[0], "run.lock"])
    assert names(tmp_path) == [kept.relative_to(tmp_path).parts[0]]


def test_a_held_folder_names_its_owner(tmp_path):
    held = pytest.raises(OutputError, match=rf"held by another run \(process {os.getpid()}\)")
    with run_lock(tmp_path), held, run_lock(tmp_path):
        pass
    with run_lock(tmp_path):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("owner", ["999999999", "1", "own", "", "no number"])
def test_a_lock_whose_owner_is_dead_is_taken_over_whatever_it_says(tmp_path, owner):
    (tmp_path / "run.lock").write_text(
        str(os.getpid()) if owner == "own" else owner
    )  # also a number that another process has by now
    with run_lock(tmp_path):
        assert (tmp_path / "run.lock").read_text() == str(os.getpid())
    assert names(tmp_path) == []


def test_a_lock_goes_with_its_process(tmp_path):
    code = "import sys, os; from pathlib import Path; from medseg.core.lock import run_lock\n"
    code += "with run_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    owner = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match=f"process {owner.pid}"), run_lock(tmp_path):
            pass
    finally:
        owner.kill()
        owner.communicate()
    with run_lock(tmp_path):
        pass


def test_of_eight_runs_in_one_folder_one_wins(tmp_path):
    code = """
import sys, time
from pathlib import Path
from medseg.core.errors import OutputError
from medseg.core.lock import run_lock
print("ready", flush=True)
sys.stdin.readline()
try:
    with run_lock(Path(sys.argv[1])):
        print("won", flush=True)
        sys.stdin.readline()
except OutputError as error:
    print("lost" if "held by another run" in str(error) else error, flush=True)
"""
    (tmp_path / "run.lock").write_text("999999999")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    assert {racer.stdout.readline() for racer in racers} == {"ready\n"}
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    results = [racer.stdout.readline().strip() for racer in racers]
    for racer in racers:
        racer.communicate("\n", timeout=30)
    assert sorted(results) == ["lost"] * 7 + ["won"]


def test_what_a_living_process_is_writing_is_left_alone(tmp_path):
    running = tmp_path / f".x.txt.{os.getppid()}.tmp"
    running.write_text("half")
    (tmp_path / ".user.tmp").write_text("not ours")
    dead = tmp_path / "deep" / ".x.txt.999999999.tmp"
    write_text(dead, "half")
    with run_lock(tmp_path):
        assert not dead.exists()
    assert names(tmp_path) == sorted([".user.tmp", running.name, "deep"])


def test_a_link_in_the_place_of_the_lock_empties_no_other_file(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match="cannot write there"), run_lock(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "kept"
