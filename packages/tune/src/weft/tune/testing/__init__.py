"""For tests of plug-ins.

The suites that every searcher and every scheduler has to pass. They need pytest and hypothesis.
"""
