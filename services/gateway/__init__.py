"""The gateway: REST, a live stream and a page over the loop. `service.serve` runs it.

`edge` stands around everything (headers, origins, the request log), `app` puts the routes together by the role that
they take, `access` asks for the key, `keyring` knows which hold, `problems` makes every error an RFC 9457 answer.
`intake` turns bytes into validated texts, `acceptor` publishes those of many requests in one durable transaction.
`tail` follows the log's end once per process, `stream` hands it to each client, resumable. `queries` says what is read
from Postgres, `pool` on which threads.
"""
