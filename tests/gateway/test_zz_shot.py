import json, random, time, threading, shutil
from tests.gateway.conftest import *
from services.stream.events import CleanText
from playwright.sync_api import sync_playwright
def texts():
    out=[]
    for f in ("equity","crypto","energy","metals_ags"):
        for l in open(f"services/demo/parts/{f}.jsonl"):
            d=json.loads(l); out.append(d)
    random.Random(3).shuffle(out); return out
def test_shot(gateway):
    data=texts(); rng=random.Random(1); print(data[0])
    gateway.promote(1,"finbert-base-1f2c")
    stop=threading.Event()
    def feed():
        n=0
        while not stop.is_set():
            d=data[n%len(data)]; n+=1
            lab=rng.choice(["negative","neutral","positive"]); p=[rng.random()*.4 for _ in range(3)]; p[["negative","neutral","positive"].index(lab)]=.5+rng.random(); s=sum(p); p=tuple(x/s for x in p)
            e=made(n,label=lab,probabilities=p,tickers=tuple(rng.sample(["AAPL","NVDA","BTC","XAU","CL","TSLA","ASML","SHFE.ag"],rng.choice([0,1,1,2]))),source=d.get("source","newswire"),model="finbert-base-1f2c" if n<120 else "finbert-lora-7f3a",event_time=now_ms(),text_id=f"t{n}")
            gateway.bus.publish([outgoing(clean(e,body=d["text"]))]); gateway.bus.publish([outgoing(e)])
            time.sleep(0.03)
            if n==120:
                change = ModelChange(epoch=2, version="finbert-lora-7f3a", action="promote", previous="finbert-base-1f2c", at=now_ms())
                gateway.bus.publish([Outgoing(topics.MODELS, b"x", encode(change))])
    t=threading.Thread(target=feed); t.start()
    with sync_playwright() as pw:
        b=pw.chromium.launch(executable_path=shutil.which("chromium"),args=["--no-sandbox"])
        for name,kw in {"light":dict(viewport={"width":1280,"height":860}),"dark":dict(viewport={"width":1280,"height":860},color_scheme="dark"),"phone":dict(viewport={"width":390,"height":844},device_scale_factor=2)}.items():
            pg=b.new_page(**kw); pg.goto(gateway.url); pg.wait_for_selector(".card >> nth=5")
            if name=="light":
                pg.wait_for_selector("#model.landed"); pg.click("#pause"); pg.locator(".judge button").first.click(); pg.wait_for_selector(".thanks")
            else: pg.wait_for_timeout(1500)
            pg.screenshot(path=f"/tmp/shot_{name}.png")
        b.close()
    stop.set(); t.join()
