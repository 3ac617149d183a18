"""Sources in a text, numbered as they are cited."""

from collections.abc import Mapping


class Cited:
    """Gives each of ``sources`` its number, in the order in which they are cited; what is not cited is not listed."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = sources
        self.names: list[str] = []

    def __call__(self, name: str) -> str:
        """``[n]`` for the source called ``name``."""
        if name not in self.names:
            self.names.append(name)
        return f"[{self.names.index(name) + 1}]"

    def listed(self) -> str:
        """A line for each source that was cited."""
        return "".join(f"{n}. {self.sources[name]}\n" for n, name in enumerate(self.names, 1))
