"""What staged.py imports: its functions go by reference."""

from __future__ import annotations


def check_sorted(values: list[int]) -> None:
    assert values == sorted(values), f"{values} are not sorted"


def double(number: int) -> int:
    return 2 * number


class Fragile:
    """Cannot be unpickled."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __setstate__(self, state: dict[str, int]) -> None:
        raise RuntimeError(f"of size {state['size']}: it broke on the way")
