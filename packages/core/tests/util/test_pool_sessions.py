from __future__ import annotations

import pytest

import weft
from weft.exceptions import SessionError
from weft.util.multiprocessing import Pool


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["inline", "local"])
def test_pool_ends_with_its_session(engine: str) -> None:
    with weft.init(engine=engine):
        pool = Pool(2)
        assert pool.map(abs, range(-3, 0)) == [3, 2, 1]
    with pytest.raises(SessionError):
        pool.map(abs, range(3))
    pool.close()
    pool.join()
    assert not weft.is_initialized()
