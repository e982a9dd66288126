"""For tests.

The suites that every implementation of a part of Weft has to pass. They need pytest.
"""
