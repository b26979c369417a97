"""What corrections bring, and what hostile readers can do: simulated readers, real texts, real training, no services.

`streams` splits the labelled sets once; `loop` is one reader-to-model loop over features, as the trainer runs it; `curves`
and `poison` are the measurements. `python -m ops.bench.learning DIR` runs them.
"""
