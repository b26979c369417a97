"""The gateway: REST, a live stream and a page over the loop. `service.serve` runs it.

    edge       headers, origin and host checks, request log: around everything
    app        the routes put together; problems: every error as RFC 9457
    intake     bytes → validated texts; acceptor: texts of many requests → one durable transaction
    tail       the log's end → frames, once per process; stream: frames → each client, resumable
    queries    what is read from Postgres; pool: on which threads
"""
