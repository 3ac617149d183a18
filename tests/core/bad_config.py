"""The configs of the policy's group yaml: each row's file, and the words that its message must hold."""

from dataclasses import dataclass

GOOD = """\
name: liver
data: {layout: msd, root: data, group: null}
labels: {background: 0, liver: 1, tumour: 2}
modality: CT
plan:
  dimensions: auto
  spacing_mm: auto
  patch_size: auto
  batch_size: auto
  architecture: unet
train:
  budget: 20m
  steps: null
  epochs: 2
  learning_rate: auto
  optimizer: auto
  loss: dice_ce
  seed: 0
  folds: 5
  fold: 0
device: auto
output: null
"""


@dataclass(frozen=True)
class Row:
    """``content`` of the file; ``hints``: of each, the message must hold at least one word; none where it is accepted."""

    id: str
    content: bytes
    hints: tuple[str, ...] = ()


def _row(name: str, old: str, new: str, *hints: str) -> Row:
    assert old in GOOD, old
    return Row(name, GOOD.replace(old, new).encode(), hints)


def _architecture(name: str, value: str) -> Row:
    return _row(
        f"y-exec-{name}",
        "architecture: unet",
        f"architecture: {value}",
        "python|tag|name|model|character|invalid|unknown|output",
    )


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)
_YAML = "yaml|utf-8|decode|character"

BAD = [
    _row("t-patch-zero", "patch_size: auto", "patch_size: [0, 64, 64]", "patch"),
    _row("y-unknown-key", "epochs: 2", "epoch: 2", "epoch", "unknown|did you mean"),
    _row("y-unknown-nested", "layout: msd", "layout: folder, imagse: x", "imagse", "unknown|did you mean"),
    _row("y-duplicate-key", "epochs: 2", "epochs: 2\n  epochs: 3", "epochs", "duplicate|twice"),
    _row("y-wrong-type", "epochs: 2", "epochs: many", "epochs"),
    _row("y-bool-as-int", "epochs: 2", "epochs: true", "epochs"),
    _row("y-negative-lr", "learning_rate: auto", "learning_rate: -0.1", "learning_rate"),
    _row("y-nan-lr", "learning_rate: auto", "learning_rate: .nan", "learning_rate"),
    _row("y-inf-lr", "learning_rate: auto", "learning_rate: .inf", "learning_rate"),
    _row("y-zero-batch", "batch_size: auto", "batch_size: 0", "batch_size"),
    _row("y-huge-epochs", "epochs: 2", "epochs: 1000000000000", "epochs"),
    _row("y-device", "device: auto", "device: 7", "device"),
    _row("y-device-word", "device: auto", "device: gpu", "device"),
    _row("y-null", "budget: 20m\n  steps: null\n  epochs: 2", "epochs: null", "epochs"),
    _row("y-missing-labels", "labels: {background: 0, liver: 1, tumour: 2}\n", "", "labels", "missing|required"),
    _row("y-labels-no", "liver: 1", "no: 1", "labels|name"),
    _row("y-labels-same-value", "tumour: 2", "tumour: 1", "labels", "1|duplicate|same"),
    _row("y-labels-no-background", "background: 0, ", "", "background|0"),
    _row("y-tab", "  dimensions: auto", "\tdimensions: auto", "tab|line|yaml"),
    Row("y-empty", b"", ("empty",)),
    Row("y-only-comments", b"# nothing\n", ("empty",)),
    Row("y-list", b"- name: liver\n- modality: CT\n", ("mapping|list|key",)),
    Row("y-scalar", b"liver\n", ("mapping|key",)),
    Row("y-two-documents", f"{GOOD}---\n{GOOD}".encode(), ("document",)),
    Row("y-notutf8", GOOD.replace("liver", "Größe").encode("latin-1"), ("utf-8|encod|decode",)),
    Row("y-binary", bytes(range(256)) * 8, (_YAML,)),
    Row("y-nul", GOOD.replace("name: liver", "name: li\0ver").encode(), ("character|nul|yaml",)),
    Row("y-laughs", LAUGHS.encode(), ("alias|anchor|unknown|expan",)),
    _row("y-self-anchor", "labels: {", "labels: &a {self: *a, ", "alias|anchor|recurs|label|unknown"),
    Row("y-deep", b"plan: " + b"[" * 50_000, ("nest|deep|recurs|unknown|yaml",)),
    _architecture("apply", "!!python/object/apply:os.system ['touch canary']"),
    _architecture("new", "!!python/object/new:os.system ['touch canary']"),
    _architecture("module", "!!python/module:os"),
    _architecture("dollar", "'${oc.env:HOME}'"),
    _architecture("target", "{_target_: os.system, command: touch canary}"),
    _architecture("import", "{name: '$import os; os.system(\"touch canary\")'}"),
]

ACCEPTED = [
    Row("y-good", GOOD.encode()),
    Row("y-bom", b"\xef\xbb\xbf" + GOOD.encode()),
    Row("y-crlf", GOOD.replace("\n", "\r\n").encode()),
    _row("y-lr-1e-3", "learning_rate: auto", "learning_rate: 1e-3"),
    _row("y-labels-gap", "tumour: 2", "tumour: 9"),
    _row("y-exec-shell-path", "root: data", "root: 'data$(touch canary)`touch canary`;touch canary'"),
]
