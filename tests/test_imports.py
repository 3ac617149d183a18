"""The rules of the house, read from the source: which room may import which, and which library enters by which door."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "medseg"
MIDDLE = {"data", "models", "losses", "training", "inference", "metrics", "statistics", "report"}
BELOW = {"io", "core"}

# Which other rooms each room may import.
ROOMS = {
    "core": set(),
    "io": {"core"},
    **dict.fromkeys(MIDDLE, BELOW),
    "training": BELOW | {"data", "models", "losses", "inference", "metrics"},
    "inference": BELOW | {"models", "data"},
    "report": BELOW | {"metrics", "statistics"},
    "workflows": BELOW | MIDDLE,
    "cli": BELOW | MIDDLE | {"workflows"},
    "serve": BELOW | MIDDLE | {"workflows"},
    "__main__": {"cli"},
    "__init__": BELOW | {"inference", "workflows"},
}
MADE_OF_WORKFLOWS = {"demo", "tune", "cohort", "cluster", "compare", "agree"}  # the last two score by evaluate
INFERENCE_FROM_DATA = {"medseg.data.preprocess", "medseg.data.intensity"}

# Which modules a library may enter by.
LEARNING = ("data.augment*", "data.loader", "data.transforms", "models*", "losses*", "training*", "inference*")
DOORS = {
    # The signatures of `train` name torch.device and Tensor; `info` reports what torch sees, imported inside its function.
    "torch": (*LEARNING, "workflows.train*", "workflows.info"),
    "monai": LEARNING,
    "lightning": ("training*",),
    "safetensors": ("models.bundle", "models.init", "training.checkpoint", "training.init"),
    "nibabel": ("io.nifti*",),
    "PIL": ("io.image2d*",),
    "SimpleITK": ("io.itk*", "io.dicom*"),
    "openvino": ("inference.backends.openvino*",),
    "platformdirs": ("inference.backends.conversions", "models.installed"),
    **dict.fromkeys(("pydicom", "highdicom", "gdcm", "pylibjpeg", "openjpeg", "rle"), ("io.dicom*",)),
    "isal": ("io.*",),
    "typer": ("cli.*",),
    "rich": ("cli.*",),
    "pandas": ("statistics*", "report*"),
    "statsmodels": ("statistics*",),
    **dict.fromkeys(("cc3d", "edt"), ("core.fast",)),
    "matplotlib": ("report*",),
    "jinja2": ("report*",),
    "yaml": ("core.yaml", "training.run_folder"),
    "pydantic": (
        *("core.*", "models.model_json", "models.how_to_run", "models.importers.nnunet_files", "training.run_folder"),
    ),
    "scipy": ("core.*", "data.*", "inference*", "metrics*", "statistics*"),
    "skimage": ("data.*", "inference*", "metrics*", "io.mesh"),  # marching cubes
    "trimesh": ("io.mesh",),
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), ("models.exporters.onnx*",)),
    **dict.fromkeys(("dask", "distributed", "dask_jobqueue"), ("workflows.cluster*",)),
    "numpy": ("*",),
}

# What writes without `core.files`, and why it may.
MAY_WRITE = {
    "core.files": "the one that writes",
    "io.archive": "unpacks into a private temporary folder, gone before its block ends",
    "io.model_archive": "packs and unpacks into the temporary files that core.files gives it",
    "io.nifti_parts": "writes into the temporary file that core.files gives it",
    "io.download": "appends to a .part file, which no name but that of a model folder ever becomes",
    "io.child": "sends decoded pixels through the pipe to its parent",
    "core.journal": "SQLite writes the journal itself, in a way that a kill cannot break",
    "core.lock": "holds the lock file of a run",
    "core.workers": "sends answers through the pipe to its parent",
}
WRITERS = {
    *(
        "write_text",
        "write_bytes",
        "touch",
        "hardlink_to",
        "symlink_to",
        "save",
        "savez",
        "savez_compressed",
        "savetxt",
    ),
    *(
        "tofile",
        "savefig",
        "imsave",
        "to_csv",
        "to_json",
        "to_html",
        "to_excel",
        "to_parquet",
        "to_pickle",
        "to_filename",
    ),
    *("WriteImage", "save_file", "save_as", "dump", "copyfile", "copy2", "copytree", "move", "open_memmap", "fdopen"),
    *("NamedTemporaryFile", "mkstemp", "mkdtemp"),
}
# Calls of such a name that write no file: into memory, or `save` methods of ours that go through `core.files`.
NO_FILE = {
    ("data.store", "np.save"): "into a BytesIO, for write_durable",
    ("report.curves", "figure.savefig"): "into a BytesIO, for write_durable",
    ("report.figures", "figure.savefig"): "into a BytesIO, for write_together",
    ("workflows.agree", "found.save"): "our Agreement, which writes by core.files",
    ("workflows.compare", "result.save"): "our Comparison, which writes by core.files",
    ("report.overlay", "figure.savefig"): "into a BytesIO, for write_durable",
    ("models.bundle", "safetensors.torch.save"): "gives bytes, for write_durable",
    ("training.init", "safetensors.torch.save"): "gives bytes, for write_durable",
    ("training.checkpoint", "safetensors.torch.save"): "gives bytes, for write_durable",
    ("workflows.train_fold", "report.save"): "our Report, which writes by core.files",
    ("workflows.train_cross_validation", "report.save"): "our Report, which writes by core.files",
    ("workflows.evaluate", "report.save"): "our Report, which writes by core.files",
    ("cli.evaluate", "report.save"): "our Report, which writes by core.files",
    ("report.evaluation", "self.to_csv"): "gives text, for write_durable",
    ("models.exporters.onnx_network", "program.save"): "into the folder that core.files stages",
    ("models.exporters.monai_bundle", "torch.save"): "into the temporary file that core.files gives it",
    ("io.source", "os.fdopen"): "opens for reading",
    ("io.image2d", "image.save"): "into a BytesIO",
    ("io.dicom_write", "zipfile.ZipFile"): "into a BytesIO",
    ("cli.app", "os.open"): "opens the null device",
}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "yaml.load", "yaml.load_all"),
    *("yaml.full_load", "yaml.unsafe_load", "joblib.load", "pd.read_pickle", "torch.hub.load"),
}
FORBIDDEN_METHODS = {"extractall", "extract"}
FORBIDDEN_LIBRARIES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


@dataclass(frozen=True)
class Module:
    """One file of the package: its dotted ``name`` below medseg and what it says."""

    name: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.name.split(".")[0]

    @cached_property  # several rules read them
    def imports(self) -> list[tuple[str, int]]:
        """Every module that is imported anywhere in the file, also inside functions; names resolved to modules."""
        return list(self._imports())

    def _imports(self) -> Iterator[tuple[str, int]]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}, line {node.lineno}: relative import"
                for alias in node.names:
                    longer = f"{node.module}.{alias.name}"
                    is_module = longer in NAMES or node.module == "medseg"
                    yield (longer if is_module else str(node.module)), node.lineno

    @cached_property
    def calls(self) -> list[tuple[str, ast.Call]]:
        """Every call with the text of what is called, such as ``np.save``."""
        return [(ast.unparse(node.func), node) for node in ast.walk(self.tree) if isinstance(node, ast.Call)]


def _modules() -> list[Module]:
    modules = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        modules.append(Module(name, ast.parse(path.read_text(encoding="utf-8"), path)))
    return modules


MODULES = _modules()
NAMES = {"medseg", *(f"medseg.{module.name}" for module in MODULES)}
each_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)


def _wrong_import(module: Module, imported: str) -> str | None:
    if imported == "medseg.__version__":
        return None
    room = imported.removeprefix("medseg.").partition(".")[0]
    if room == module.room:
        is_part = imported.startswith(f"medseg.{module.name}_")  # train may be made of train_fold and the like
        if room == "workflows" and module.name.split(".")[1].partition("_")[0] not in MADE_OF_WORKFLOWS and not is_part:
            return "a workflow imports another one"
        return None
    if room not in ROOMS[module.room]:
        return f"{module.room} imports {room}"
    if module.room == "inference" and room == "data" and imported not in INFERENCE_FROM_DATA:
        return f"inference imports {imported}; of data only how a scan is preprocessed"
    return None


def _wrong_imports(module: Module) -> list[tuple[int, str]]:
    ours = [(name, line) for name, line in module.imports if name.split(".")[0] == "medseg"]
    return [(line, why) for name, line in ours if (why := _wrong_import(module, name))]


@each_module
def test_imports_point_down(module):
    assert not _wrong_imports(module), f"medseg.{module.name}"


def _wrong_libraries(module: Module) -> list[tuple[int, str]]:
    known = sys.stdlib_module_names | {"medseg", "__future__"}
    theirs = [(name.split(".")[0], line) for name, line in module.imports if name.split(".")[0] not in known]
    return [
        (line, library)
        for library, line in theirs
        if not any(fnmatch(module.name, door) for door in DOORS.get(library, ()))
    ]


@each_module
def test_a_library_enters_by_its_door(module):
    assert not _wrong_libraries(module), f"medseg.{module.name}; the doors are in {Path(__file__).name}"


def _opens_for_writing(name: str, call: ast.Call) -> bool:
    if name == "os.open":
        return any(flag in ast.unparse(call) for flag in ("O_CREAT", "O_WRONLY", "O_RDWR", "O_TRUNC", "O_APPEND"))
    if name.split(".")[-1] not in ("open", "memmap", "File", "ZipFile", "IGzipFile", "GzipFile", "fdopen"):
        return False
    given = [*call.args, *(k.value for k in call.keywords if k.arg == "mode")]
    modes = [a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str) and len(a.value) <= 4]
    return any(set(mode) & set("wax+") for mode in modes)


def _writes(module: Module) -> list[tuple[int, str]]:
    wrong = []
    for name, call in module.calls:
        in_memory = any(k.arg == "fileobj" for k in call.keywords) or (module.name, name) in NO_FILE
        is_method = "." in name and name.split(".")[-1] in WRITERS  # `write_text(...)` alone is ours
        if (is_method or _opens_for_writing(name, call)) and not in_memory:
            wrong.append((call.lineno, name))
    return wrong


@each_module
def test_only_core_files_writes(module):
    assert module.name in MAY_WRITE or not _writes(module), f"medseg.{module.name}: use medseg.core.files"


def test_the_exceptions_to_writing_are_still_needed():
    called = {(module.name, name) for module in MODULES for name, _ in module.calls}
    names = {module.name for module in MODULES}
    # A `save` of a Report may move between a workflow and its verb.
    gone = [key for key in NO_FILE if key not in called and key[1] != "report.save"]
    assert not gone
    assert set(MAY_WRITE) <= names


def _unsafe(module: Module) -> list[tuple[int, str]]:
    wrong = [(line, name) for name, line in module.imports if name.split(".")[0] in FORBIDDEN_LIBRARIES]
    for name, call in module.calls:
        keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
        if (module.name, name, keywords.get("weights_only")) == (
            "models.importers.torch_checkpoint",
            "torch.load",
            "True",
        ):
            continue  # the one place, in a child process, with an allow-list
        if name in FORBIDDEN_CALLS or name.split(".")[-1] in FORBIDDEN_METHODS:
            wrong.append((call.lineno, name))
        if keywords.get("shell", "False") != "False" or keywords.get("allow_pickle", "False") != "False":
            wrong.append((call.lineno, f"{name} with shell or pickle"))
    return wrong


@each_module
def test_nothing_read_is_ever_executed(module):
    assert not _unsafe(module), f"medseg.{module.name}"


@pytest.mark.parametrize(
    ("name", "line", "check"),
    [
        ("core.x", "from medseg.io.nifti import read_nifti", _wrong_imports),
        ("core.x", "import medseg", _wrong_imports),
        ("models.x", "def f():\n    from medseg.data.store import build_store", _wrong_imports),
        ("inference.x", "from medseg.data.planning import make_frame", _wrong_imports),
        ("inference.x", "import medseg.training.fit", _wrong_imports),
        ("workflows.infer", "from medseg.workflows import train", _wrong_imports),
        ("workflows.infer", "from medseg import train", _wrong_imports),
        ("workflows.train_fold", "from medseg.workflows.train import train", _wrong_imports),
        ("data.store", "import torch", _wrong_libraries),
        ("io.nifti", "from pydicom import dcmread", _wrong_libraries),
        ("core.x", "import requests", _wrong_libraries),
        ("data.store", "path.open('wb')", _writes),
        ("data.store", "open(path, mode='a')", _writes),
        ("data.store", "path.write_text('x')", _writes),
        ("data.store", "os.open(path, os.O_WRONLY)", _writes),
        ("data.x", "np.save(path, array)", _writes),
        ("models.bundle", "torch.load(path)", _unsafe),
        ("models.bundle", "torch.load(path, weights_only=True)", _unsafe),
        ("models.importers.torch_checkpoint", "torch.load(path, weights_only=False)", _unsafe),
        ("models.bundle", "from pickle import loads", _unsafe),
        ("data.store", "np.load(path, allow_pickle=True)", _unsafe),
        ("io.zip", "archive.extractall(folder)", _unsafe),
        ("io.zip", "subprocess.run(command, shell=True)", _unsafe),
    ],
)
def test_the_rules_see_what_they_forbid(name, line, check):
    assert check(Module(name, ast.parse(line)))


@each_module
def test_only_the_command_line_prints_and_exits(module):
    if module.room in ("cli", "__main__"):
        return
    wrong = [(call.lineno, name) for name, call in module.calls if name in ("print", "sys.exit", "exit", "quit")]
    assert not wrong, f"medseg.{module.name}: {wrong}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.name != "__init__"], ids=lambda module: module.name)
def test_files_stay_readable(module):
    path = PACKAGE.joinpath(*module.name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, f"{path.name} should be split by idea"
    assert ast.get_docstring(module.tree), f"{path.name} has no docstring"


def _loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after ``code``."""
    program = f"import sys\n{code}\nprint('\\n' + ' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {"torch", "monai", "lightning", "numpy", "scipy", "SimpleITK", "nibabel", "pydicom", "pandas", "matplotlib"}
IMAGING = HEAVY - {"torch", "monai", "lightning"}


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import medseg; medseg.__version__, dir(medseg)", HEAVY | {"pydantic", "yaml", "rich", "typer"}),
        ("from medseg.cli.app import run; run(['--help'])", HEAVY | {"pydantic", "yaml"}),
        ("from medseg.cli.app import run; run(['train', '--help'])", HEAVY),
        ("from medseg.cli.app import run; run(['infer', '--help'])", HEAVY),
        ("from medseg.core.config import load_config", HEAVY - {"numpy"}),
        (
            "import medseg.cli.evaluate, medseg.workflows.evaluate, medseg.io.nifti",
            {"torch", "monai", "lightning", "SimpleITK", "matplotlib", "pandas"},
        ),
        ("import medseg; medseg.evaluate", {"torch", "monai", "lightning"}),
        (
            "import medseg; medseg.infer, medseg.Segmenter; import medseg.models.model_json",
            {"torch", "monai", "lightning", "SimpleITK", "pandas", "matplotlib"},
        ),
    ],
    ids=["medseg", "help", "train-help", "infer-help", "config", "evaluate", "evaluate-function", "infer-function"],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(code, absent):
    assert not _loaded_after(code) & absent


def test_infer_with_our_networks_needs_no_monai_and_no_lightning(tmp_path):
    code = f"""
from pathlib import Path
sys.path.insert(0, {str(PACKAGE.parent)!r})
from tests.models.tiny_model import tiny_model, write_scan
from medseg.cli.app import run
folder = Path({str(tmp_path)!r})
scan = write_scan(folder / "scan.nii.gz")
assert run(["infer", str(scan), "--model", str(tiny_model(folder / "model")), "--device", "cpu"]) == 0
"""
    loaded = _loaded_after(code)
    assert "torch" in loaded
    assert not loaded & {"monai", "lightning", "pytorch_lightning", "pandas", "matplotlib", "SimpleITK", "skimage"}
