"""tickerloop: streaming financial sentiment that learns from the people who read it.

The whole pipeline; every arrow is a topic (`services.stream.topics`), every name a process that can be killed at any
moment:

    source ─► ingest ─► texts.raw ─► clean ─► texts.clean ─► score ─┬─► predictions ─► store ─► Postgres, Valkey
                                       │                       ▲    └─► mentions ───► monitor ─► windows
                                  texts.rejected               │ models          │
                                                               │          gateway ─► REST, SSE, page
                      trainer ◄─ training.examples ◄─ feedback ◄───── feedback.raw ◄────┘
"""
