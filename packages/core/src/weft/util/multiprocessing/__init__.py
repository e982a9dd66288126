"""`multiprocessing.Pool` on Weft: change the import, keep the program.

from weft.util.multiprocessing import Pool
"""

from multiprocessing import TimeoutError

from weft.util.multiprocessing.pool import Pool

__all__ = ["Pool", "TimeoutError"]
