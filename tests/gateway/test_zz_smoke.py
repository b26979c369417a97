import httpx
from tests.gateway.conftest import *
def test_x(gateway):
    c=gateway.client
    for m,p,kw in [("POST","/v1/texts",dict(json={"text":"a"})),("POST","/v1/texts",dict(content=b"["*10000)),("GET","/nope",{}),("PUT","/v1/texts",{}),
      ("GET","/v1/predictions?limit=x",{}),("GET","/v1/predictions?label=x",{}),("POST","/v1/feedback",dict(json={"prediction_id":"x","label":"bad","annotator":3})),("POST","/v1/feedback",dict(content=b'{"a":'+b"["*10000)),("POST","/v1/feedback",dict(content=b'\xff')),("POST","/v1/feedback",{}),("POST","/v1/feedback",dict(json=[])),
      ("GET","/v1/status",{}),("GET","/readyz",{}),("GET","/metrics",{}),("GET","/schema/openapi.json",{}),("GET","/schema",{}),("GET","/",{}),("GET","/v1/models",{}),("GET","/v1/ledger",{}),("GET","/v1/review",{}),("GET","/v1/tickers/A",{}),("GET","/v1/tickers/A/windows",{}),("GET","/v1/predictions?ticker=%00",{}),("GET","/v1/predictions?ticker=%ff",{}),("GET","/v1/tickers/%00",{}),("GET","/v1/predictions?cursor=zzz",{}),("GET","/v1/predictions?from=abc",{}),("GET","/v1/models/x",{}),("POST","/v1/models/x/promote",dict(json={"actor":"a","reason":"b","expected_epoch":0})),("POST","/v1/models/rollback",dict(json={"actor":"a","reason":"b","expected_epoch":0})),
      ("POST","/v1/texts",dict(content=b'x'*9_000_000)),("POST","/v1/score",dict(json={"texts":["a"]})),("GET","/v1/stream",dict(headers={"Last-Event-ID":"zz"})),("GET","/healthz",dict(headers={"Host":"evil.com"})),("POST","/v1/texts",dict(headers={"Origin":"http://evil.com"},json={"text":"x"}))]:
        r=c.request(m,p,**kw)
        print(m,p,r.status_code,r.headers.get("content-type"),r.text[:400])
    print(r.headers)
