"""A cohort on Dask workers: the same results, each case once, whoever dies; on a cluster of two that all tests share."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path

import pytest

from medseg.core.cluster_spec import AddressSpec, LocalSpec, QueueSpec, cluster_spec
from medseg.core.config_inference import postprocess_from
from medseg.core.errors import ConfigError, ModelError, OutputError, ResourceError
from medseg.core.files import sha256_of
from medseg.core.interrupt import StopFlag
from medseg.inference.settings import InferenceOptions
from medseg.io.scan import ReadOptions
from medseg.workflows import cluster, cluster_start
from medseg.workflows.cluster import on_cluster
from medseg.workflows.cluster_start import connected, queue_cluster
from medseg.workflows.cluster_worker import do_case, error_of, prepare, task_of
from medseg.workflows.cohort import cohort
from medseg.workflows.cohort_case import Common, Order
from tests.models.tiny_model import texture, tiny_model, write_scan
from tests.workflows.deadly import Deadly


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("cluster")
    tiny_model(place / "model")
    for n in range(6):
        write_scan(place / "scans" / f"case_{n}.nii.gz", texture((14, 12, 10), seed=n))
    return place


@pytest.fixture(scope="module")
def client():
    with connected(LocalSpec(kind="local", workers=2, threads=1), device="cpu", say=lambda line: None) as client:
        client.wait_for_workers(2)
        client.register_plugin(Deadly())
        yield client


@pytest.fixture(scope="module")
def address(client):
    return AddressSpec(kind="address", address=client.scheduler.address, threads=1)


@pytest.fixture(scope="module")
def serial(folder):
    """The label maps of the cohort without a cluster, by name and hash."""
    found = cohort([folder / "scans"], output=folder / "serial", model=folder / "model", device="cpu")
    assert found.failed == 0
    return label_maps(folder / "serial")


def label_maps(output: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in output.glob("*.nii.gz")}


def run(folder, output, spec, *, scans=None, tell=lambda record: None, **options):
    """The cohort on the cluster, and the names of the cases in the order in which they were told."""
    told = []

    def note(record):
        told.append(record["case"])
        tell(record)

    found = cohort(
        [scans or folder / "scans"],
        output=output,
        model=folder / "model",
        device="cpu",
        executor=on_cluster(spec, **options),
        tell=note,
    )
    return found, told


def test_a_worker_that_is_killed_loses_no_case_and_changes_no_result(folder, tmp_path, client, address, serial):
    pids = client.run(os.getpid)
    killed = []

    def kill_one(record):
        if not killed:
            killed.append(min(pids.values()))
            os.kill(killed[0], signal.SIGKILL)

    found, told = run(folder, tmp_path / "out", address, tell=kill_one)
    assert sorted(told) == [f"case_{n}" for n in range(6)]
    assert found.failed == 0
    assert label_maps(tmp_path / "out") == serial
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["cases"]) == 6
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.endswith(".tmp")]
    assert killed[0] not in client.run(os.getpid).values()


def test_a_case_that_kills_its_workers_is_left_out_and_the_rest_is_done(folder, tmp_path, address):
    scans = tmp_path / "scans"
    for name in ("a", "poison", "z"):
        write_scan(scans / f"{name}.nii.gz")
    found, told = run(folder, tmp_path / "out", address, scans=scans, tries=2)
    assert sorted(told) == ["a", "poison", "z"]
    assert {name: record["status"] for name, record in found.records.items()} == {
        "a": "done",
        "poison": "failed",
        "z": "done",
    }
    assert "2 workers died while they had this case" in found.records["poison"]["error"]
    assert "poison.nii.gz" in found.records["poison"]["error"]


def test_a_run_that_was_broken_off_goes_on_where_it_was(folder, tmp_path, address, serial):
    def enough(record):
        if len(list((tmp_path / "out").glob("*_seg.json"))) >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "out", address, tell=enough)
    before = {path.name for path in (tmp_path / "out").glob("*.nii.gz")}
    assert 2 <= len(before) < 6
    found, told = run(folder, tmp_path / "out", address)
    assert found.again == 6 - len(told) >= 1  # files are there a moment before their record
    assert found.failed == 0
    assert label_maps(tmp_path / "out") == serial


def test_bad_scans_are_told_as_they_are_without_a_cluster(folder, tmp_path, address):
    scans = tmp_path / "scans"
    write_scan(scans / "good.nii.gz")
    (scans / "bad.nii.gz").write_bytes((scans / "good.nii.gz").read_bytes()[:-20])
    found, _ = run(folder, tmp_path / "out", address, scans=scans)
    local = cohort([scans], output=tmp_path / "local", model=folder / "model", device="cpu")
    assert found.records["bad"]["error"] == local.records["bad"]["error"]
    assert found.records["good"]["status"] == "done"


@pytest.fixture(scope="module")
def parts(folder):
    """What the parent would send: a task, and one order."""
    common = Common(str(folder / "model"), str(folder), device="cpu")
    token = folder / "token"
    token.write_text("here")
    task = task_of(common, common.load(), token, None)
    order = asdict(Order("x", (str(folder / "scans" / "case_0.nii.gz"),), str(folder / "direct" / "x_seg.nii.gz")))
    return task, order


def test_what_all_cases_share_survives_json():
    settings = InferenceOptions(0.25, (0, 1), postprocess=postprocess_from(["tumour: {name: minimum_volume, ml: 0.5}"]))
    common = Common("model", "out", "cpu", ("stats",), ReadOptions("3", max_voxels=7), settings)
    assert Common.from_json(json.loads(json.dumps(common.as_json()))) == common


def test_a_worker_takes_json_and_gives_json(parts):
    task, order = parts
    assert set(prepare(json.loads(json.dumps(task)))) == {"ready", "settings"}
    record = json.loads(json.dumps(do_case(task, json.loads(json.dumps(order)))))["record"]
    assert record["status"] == "done"
    assert Path(order["target"]).is_file()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"medseg": "9.9"}, ConfigError, "it has medseg .*, this machine 9.9; install the same version"),
        ({"sha256": "0" * 64}, ModelError, "another model lies there than on this machine"),
        ({"settings": {"overlap": 0.25}}, ConfigError, "its setting overlap comes out as 0.5, here as 0.25"),
        ({"token": "/nowhere/else/token"}, OutputError, "it does not see /nowhere/else; every machine"),
        ({"common": "no model"}, ModelError, "does not exist"),
    ],
)
def test_a_worker_that_is_not_alike_is_refused(parts, change, error, words):
    task, order = parts
    if "common" in change:
        change = {"common": task["common"] | {"model": "/nowhere/model"}}
    for answer in (prepare(task | change), do_case(task | change, order)):
        refused = error_of(answer)
        assert type(refused) is error
        assert re.match(rf"worker on \S+: .*{words}", str(refused))


def test_one_refusal_ends_the_run_before_anything_is_done(folder, tmp_path, address, monkeypatch):
    monkeypatch.setattr(cluster, "task_of", lambda *args: task_of(*args) | {"medseg": "9.9"})
    with pytest.raises(ConfigError, match="install the same version on both"):
        run(folder, tmp_path / "out", address)
    assert not label_maps(tmp_path / "out")


def test_workers_that_would_run_the_model_in_two_ways_are_refused():
    dispatch = cluster._Dispatch(None, {}, None, None, deque(), None, None, 1, None)
    dispatch._agree({"ready": "a", "settings": {"backend": "torch"}})
    dispatch._agree({"ready": "b", "settings": {"backend": "torch"}})
    with pytest.raises(ConfigError, match=r"backend is 'torch' on a, but 'openvino' on c.*--backend torch"):
        dispatch._agree({"ready": "c", "settings": {"backend": "openvino"}})


def test_a_scan_that_a_worker_cannot_see_is_one_clear_error(parts, folder, tmp_path, address):
    task, order = parts
    error = do_case(task, order | {"files": ["/elsewhere/a.nii.gz"]})["record"]["error"]
    assert re.match(r"/elsewhere/a\.nii\.gz: not found on the worker \S+; every machine of the cluster must see", error)


def test_a_place_where_a_worker_cannot_write_ends_the_run(parts, folder):
    task, order = parts
    answer = do_case(task, order | {"target": str(folder / "token" / "x_seg.nii.gz")})
    assert isinstance(error_of(answer), OutputError)


def test_dask_is_named_where_it_is_not_installed(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r'needs Dask .* pip install "medseg\[cluster\]"'):
        run(folder, tmp_path / "out", LocalSpec(kind="local", workers=2))


def test_an_address_without_a_scheduler_is_told(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_start, "_CONNECT_SECONDS", 0.5)
    with pytest.raises(ResourceError, match=r"--cluster tcp://127.0.0.1:9: no Dask scheduler answers there"):
        run(folder, tmp_path / "out", AddressSpec(kind="address", address="tcp://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (
            "kind: slurm\nworkers: 3\nmemory: 16 GB\nthreads: 4\ngpu: true\nqueue: long\naccount: lab\nwalltime: 02:00:00\n"
            "directives: [--exclusive]\nprologue: [module load cuda]\n",
            {
                *("#SBATCH -p long", "#SBATCH -A lab", "#SBATCH --cpus-per-task=4", "#SBATCH --mem=15G"),
                *("#SBATCH -t 02:00:00", "#SBATCH --exclusive", "#SBATCH --gres=gpu:1", "module load cuda"),
            },
        ),
        (
            "kind: pbs\nworkers: 2\nmemory: 8GB\nthreads: 2\ngpu: true\nwalltime: 01:00:00\n",
            {"#PBS -l select=1:ncpus=2:mem=8GB:ngpus=1", "#PBS -l walltime=01:00:00"},
        ),
        (
            "kind: lsf\nworkers: 2\nmemory: 8GB\nthreads: 2\ngpu: true\nwalltime: '01:00'\naccount: lab\n",
            {"#BSUB -n 2", '#BSUB -P "lab"', '#BSUB -gpu "num=1"', "#BSUB -W 01:00"},
        ),
    ],
    ids=["slurm", "pbs", "lsf"],
)
def test_a_queues_jobs_ask_for_what_the_file_says(tmp_path, content, lines):
    file = tmp_path / "jobs.yaml"
    file.write_text(content)
    spec = cluster_spec(str(file))
    assert isinstance(spec, QueueSpec)
    made = queue_cluster(spec)
    try:
        script = made.job_script()
    finally:
        made.close()
    assert lines <= set(script.splitlines())
    assert "--nthreads 1" in script
    assert "--resources GPU=1" in script


COMMAND = [sys.executable, "-m", "medseg", "infer"]


def test_a_worker_that_dies_before_its_answer_is_fetched_is_charged_to_the_case_it_had_by_then():
    """A client of no network: case a is done, b is with the worker when it goes; both are done again, b has a death."""

    class Told:
        def __init__(self, status, value):
            self.status, self.value, self.key = status, value, "key"

        def result(self, timeout):
            if isinstance(self.value, Exception):
                raise self.value
            return self.value

        def add_done_callback(self, told):
            pass

        def cancel(self):
            pass

    class Client:
        workers, sent = {"worker": {}}, []

        def submit(self, *work, workers, **options):
            self.sent.append(Told("pending", None))
            return self.sent[-1]

        def scheduler_info(self, n_workers):
            return {"workers": self.workers}

    orders = deque(Order(name, (f"/{name}.nii",), f"/{name}_seg.nii.gz") for name in "abc")
    client, told = Client(), []
    dispatch = cluster._Dispatch(client, {}, None, None, orders, StopFlag(), told.append, 3, None)
    dispatch._look()
    client.sent[-1].status, client.sent[-1].value = "finished", {"settings": {}, "ready": "here"}
    dispatch._take("worker", client.sent[-1])
    dispatch._send(dispatch.idle.pop(), dispatch.waiting.popleft())
    client.sent[-1].status, client.sent[-1].value = "finished", TimeoutError()
    dispatch._take("worker", client.sent[-1])
    assert dispatch.busy["worker"][1].name == "b"
    client.workers = {}
    dispatch._look()
    assert [order.name for order in dispatch.waiting] == ["b", "a", "c"]
    assert (dict(dispatch.deaths), told) == ({"b": 1}, [])


def started(folder, output, *more):
    arguments = [
        str(folder / "scans"),
        "--model",
        str(folder / "model"),
        "--output",
        str(output),
        "--device",
        "cpu",
        *more,
    ]
    return subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sbatch: str) -> QueueSpec:
    """SLURM's commands, where ``sbatch`` is a shell script."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, script in {
        "sbatch": sbatch,
        "scancel": 'for job in "$@"; do kill -- "-$job" 2>/dev/null; done; exit 0',
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return QueueSpec(kind="slurm", workers=2, memory="1GB", walltime="00:10:00")


def test_a_queue_that_is_not_here_or_refuses_is_told(folder, tmp_path, monkeypatch):
    spec = queue(tmp_path, monkeypatch, 'echo "sbatch: error: Invalid account" >&2; exit 1')
    with pytest.raises(ResourceError, match=r"SLURM does not take the jobs: .*Invalid account"):
        run(folder, tmp_path / "out", spec)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ResourceError, match="sbatch is not found; run this where jobs are submitted to SLURM"):
        run(folder, tmp_path / "out", spec)


@pytest.mark.slow
def test_jobs_of_a_queue_do_the_cases(folder, tmp_path, monkeypatch, serial):
    # As SLURM does, it keeps the script, which is gone once it was submitted.
    copied = f'cp "$1" {tmp_path}/job.$$; setsid sh {tmp_path}/job.$$'
    spec = queue(tmp_path, monkeypatch, copied + ' > /dev/null 2>&1 & echo "Submitted batch job $!"')
    found, told = run(folder, tmp_path / "out", spec)
    assert sorted(told) == [f"case_{n}" for n in range(6)]
    assert found.failed == 0
    assert label_maps(tmp_path / "out") == serial


@pytest.mark.slow
def test_a_parent_that_is_killed_and_run_again_goes_on(folder, tmp_path, client, address, serial):
    output = tmp_path / "out"
    with started(folder, output, "--cluster", address.address) as process:
        wait_for(lambda: len(list(output.glob("*_seg.json"))) >= 5)  # one of two workers did three: its first is told
        process.kill()
    found, told = run(folder, output, address)
    assert found.again >= 1
    assert found.again + len(told) == 6
    assert label_maps(output) == serial


@pytest.mark.slow
def test_ctrl_c_ends_the_cluster_and_is_exit_130(folder, tmp_path, serial):
    output = tmp_path / "out"
    process = started(folder, output, "--cluster", "local:2")
    wait_for(lambda: list(output.glob("*_seg.json")))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: parent and workers get it
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"run the same command again" in err
    assert b"Traceback" not in err
    assert b"distributed" not in err
    wait_for(lambda: not alive(process.pid), 10)
    with started(folder, output, "--cluster", "local:2") as process:
        assert process.communicate(timeout=120)[1].count(b"Traceback") == 0
    assert process.returncode == 0
    assert label_maps(output) == serial


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
