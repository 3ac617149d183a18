"""A value computed at first use and kept with its object."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

Value = TypeVar("Value")


class once(Generic[Value]):  # noqa: N801 - used like functools.cached_property
    """``functools.cached_property`` without its lock, which before Python 3.12 lets one thread at a time compute it, whatever
    the object: threads over structures would wait for each other. Two threads on one object may compute it twice.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> "once[Value]": ...
    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...
    def __get__(self, instance: object | None, owner: type) -> "once[Value] | Value":
        if instance is None:
            return self
        value = self._compute(instance)
        vars(instance)[self._name] = value
        return value
