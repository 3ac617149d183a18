"""medseg info"""

import json
from typing import Annotated

import typer


def info(as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False) -> None:
    """Print versions and devices: what a bug report needs."""
    from medseg.workflows.info import info as run

    facts = run()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for section, content in facts.items():
        if isinstance(content, dict):
            print(f"{section}:")
            for key, value in content.items():
                print(f"  {key}: {value}")
        else:
            print(f"{section}: {content}")
