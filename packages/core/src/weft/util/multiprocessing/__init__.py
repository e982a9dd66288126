"""`multiprocessing.Pool` on Weft: change the import, keep the program.

    from weft.util.multiprocessing import Pool
"""  # noqa: A005 - Ray's name, and what it stands for

from multiprocessing import TimeoutError

from weft.util.multiprocessing.pool import Pool

__all__ = ["Pool", "TimeoutError"]
