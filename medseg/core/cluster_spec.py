"""Where a cohort's cases run: worker processes here, a Dask scheduler somewhere, or the jobs of a queueing system."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medseg.core.config_errors import problems
from medseg.core.errors import ConfigError
from medseg.core.yaml import parse_yaml

Positive = Annotated[int, Field(ge=1, le=100_000)]
Line = Annotated[str, Field(min_length=1, pattern=r"^[^\r\n]*$")]
_ADDRESS = r"(tcp|tls|ucx|ws|wss)://[^\s/]+:[0-9]{1,5}"
_HOW = "give local:N (N processes here), tcp://HOST:PORT (a Dask scheduler) or FILE.yaml"


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LocalSpec(_Spec):
    """``workers`` processes on this machine, each with its ``threads``, on a machine with GPUs each with one of them."""

    kind: Literal["local"]
    workers: Positive = Field(description="processes, each with one case at a time and a model of its own")
    threads: Positive | None = Field(
        default=None, description="CPU threads of each; default: the cores shared out evenly"
    )


class AddressSpec(_Spec):
    """The workers that a running Dask scheduler at ``address`` has, now and later; over TLS with the three files."""

    kind: Literal["address"]
    address: str = Field(pattern=f"^{_ADDRESS}$", description="such as tcp://10.0.0.7:8786")
    threads: Positive | None = Field(default=None, description="CPU threads of each worker; default: as it was started")
    ca_file: Path | None = Field(default=None, description="the authority's certificate (tls://)", strict=False)
    cert_file: Path | None = Field(default=None, description="this client's certificate (tls://)", strict=False)
    key_file: Path | None = Field(default=None, description="this client's key (tls://)", strict=False)


class QueueSpec(_Spec):
    """``workers`` jobs of one worker each in a queueing system; lost jobs are submitted again."""

    kind: Literal["slurm", "pbs", "lsf"]
    workers: Positive = Field(description="jobs, each one worker with one case at a time")
    threads: Positive = Field(default=1, description="CPU cores of each job")
    memory: Annotated[str, Field(pattern=r"^[0-9]+ ?[KMGT]i?B$")] = Field(description="of each job, such as 16GB")
    gpu: bool = Field(default=False, description="one GPU for each job")
    walltime: Line = Field(
        default="24:00:00", description="of each job, as the system writes it; what runs then is done again"
    )
    queue: Line | None = Field(default=None, description="queue or partition; default: the system's own")
    account: Line | None = Field(default=None, description="account or project to charge")
    interface: Line | None = Field(default=None, description="network interface of the machines, such as ib0")
    directives: tuple[Line, ...] = Field(default=(), description="further lines of the job's head", strict=False)
    prologue: tuple[Line, ...] = Field(
        (), description="shell lines before the worker, such as module load", strict=False
    )
    logs: Path | None = Field(default=None, description="folder for the jobs' output", strict=False)


ClusterSpec = LocalSpec | AddressSpec | QueueSpec
_KINDS: dict[str, type[LocalSpec] | type[AddressSpec] | type[QueueSpec]] = {
    "local": LocalSpec,
    "address": AddressSpec,
    **dict.fromkeys(("slurm", "pbs", "lsf"), QueueSpec),
}


def cluster_spec(text: str) -> ClusterSpec:
    """What ``--cluster`` says. Raises ConfigError for what is none of the three forms, and with the line in a file.

    >>> cluster_spec("local:4").workers, cluster_spec("tcp://10.0.0.7:8786").address
    (4, 'tcp://10.0.0.7:8786')
    """
    if found := re.fullmatch(r"local:([0-9]{1,5})", text):
        if not int(found[1]):
            raise ConfigError("--cluster local:0: give at least one worker, such as local:2")
        return LocalSpec(kind="local", workers=int(found[1]))
    if re.fullmatch(_ADDRESS, text):
        return AddressSpec(kind="address", address=text)
    if not text.lower().endswith((".yaml", ".yml")):
        raise ConfigError(f"--cluster {text!r} is no cluster; {_HOW}")
    path = Path(text)
    document = parse_yaml(path)
    content: Any = document.content
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ConfigError(f"{path}: kind is {kind!r}; choose from {', '.join(_KINDS)}")
    for key in ("ca_file", "cert_file", "key_file", "logs"):
        if isinstance(content.get(key), str):
            content[key] = path.absolute().parent / Path(content[key]).expanduser()
    try:
        return _KINDS[kind].model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "; ".join(problems(error, _KINDS[kind], document))) from None
