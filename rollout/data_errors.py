"""Data that cannot be used: what is said of it, and whether it is refused or left out."""

from collections.abc import Sequence

_MAX_PROBLEMS = 5
_MAX_SHOWN = 60  # characters of a value in a message


class DataError(ValueError):
    """Data that cannot be used; one line per problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type["DataError"], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)  # it crosses processes


class Complaints:
    """Sentences about bad rows: collected to be refused together, five at most, or all of them to be skipped."""

    def __init__(self, skip: bool = False) -> None:
        """`skip`: bad rows are left out and listed (`data.on_bad_row=skip`)."""
        self._skip = skip
        self._problems: list[str] = []

    def add(self, problem: str) -> None:
        """Say what is wrong with a row. Raises `DataError` at the fifth, unless bad rows are skipped."""
        self._problems.append(problem)
        if not self._skip and len(self._problems) == _MAX_PROBLEMS:
            raise DataError([*self._problems, f"stopped after {_MAX_PROBLEMS} problems; there may be more"])

    def settle(self) -> tuple[str, ...]:
        """What is wrong with the rows that were skipped. Raises `DataError` when there are some and none may be."""
        if self._problems and not self._skip:
            raise DataError(self._problems)
        return tuple(self._problems)


def shown(value: object) -> str:
    """A value short enough for a message."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
