"""What corrections bring: simulated readers, real texts, real training, no services.

`streams` splits the labelled sets, `curves` measures. `python -m ops.bench.learning DIR` runs it.
"""
