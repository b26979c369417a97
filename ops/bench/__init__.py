"""Benchmarks, run with `make bench` or `python -m ops.bench NAME...`. They measure this machine; no test asserts them.

Each writes `var/bench/NAME.json`: its figures, the machine and the commit. Figures of several runs are medians, and
what is compared runs in turn, so that a drift of the machine hits both.
"""
