"""What corrections bring: simulated readers, real texts, real training, no services.

`streams` splits the labelled sets, `curves` measures what labels bring, `poison` what the liars at a `desk` do to it.
`python -m ops.bench.learning DIR` runs it.
"""
