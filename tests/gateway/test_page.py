"""The live page in a real Chromium."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import httpx
import pytest
from gateway_kit import (
    Running,
    Start,
    announce,
    bearer,
    clean,
    decide,
    judged,
    made,
    new_key,
    outgoing,
    propose,
    register,
)
from playwright.sync_api import Browser, Page, expect, sync_playwright

from services import doctor
from services.stream import topics
from services.stream.events import Feedback, decode, in_holdout
from services.trainer import registry

pytestmark = pytest.mark.browser

HOSTILE = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>&lt;b&gt; \u202egnp.exe'


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    binary = doctor.chromium()
    if binary is None:
        hint = "no Chromium on PATH; get it with `apt-get install -y chromium`"
        if os.environ.get("CI") == "true":
            pytest.fail(hint)
        pytest.skip(hint)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, gateway: Running) -> Iterator[Page]:
    """The page, live, with anything it complains about collected in `complaints`."""
    opened = chromium.new_page(viewport={"width": 1280, "height": 860})
    complaints: list[str] = []
    outside: list[str] = []
    own = (gateway.url, f"blob:{gateway.url}")
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda request: None if request.url.startswith(own) else outside.append(request.url))
    opened.goto(gateway.url)
    opened.wait_for_selector('#connection[data-state="live"]')
    yield opened
    opened.close()
    assert [
        words for words in complaints if not re.search("status of (422|503)", words)
    ] == []  # tests answer so on purpose
    assert outside == []


def test_predictions_appear_as_they_are_made(page: Page, gateway: Running) -> None:
    page.wait_for_selector("#empty")
    gateway.publish(made(1), made(2, label="negative", probabilities=(0.7, 0.2, 0.1), tickers=("XYZ",)))
    page.wait_for_selector(".card >> nth=1")
    card = page.locator('.card[data-mood="negative"]')
    assert card.locator(".chip").inner_text() == "negative"
    assert card.locator(".text").inner_text() == "text of text000002"
    assert card.locator(".tickers button").inner_text() == "XYZ"
    assert card.locator(".bars").get_attribute("aria-label") == "negative 70 %, neutral 20 %, positive 10 %"
    assert card.locator(".version").inner_text() == "base-1"
    boxes = [card.locator(f".bars .{label}").bounding_box() for label in ("negative", "neutral", "positive")]
    widths = [box["width"] for box in boxes if box is not None]
    assert widths[0] > widths[1] > widths[2]
    assert not page.locator("#empty").is_visible()
    page.wait_for_selector('#rail [data-ticker="ACME"]')


def test_what_a_model_is_not_meant_for_or_abstains_from_is_marked(page: Page, gateway: Running) -> None:
    gateway.publish(made(1), made(2, language="zh", foreign=True), made(3, label="negative", abstained=True))
    page.wait_for_selector(".card >> nth=2")
    assert page.locator(".foreign").all_inner_texts() == ["not meant for zh"]
    assert page.locator(".abstained").all_inner_texts() == ["unsure"]
    assert page.locator(".chip + .abstained").count() == 1
    assert page.locator(".card:has(.abstained) .chip").inner_text() == "negative"


def test_what_was_there_before_is_shown_once(page: Page, gateway: Running) -> None:
    gateway.store(made(1), made(2))
    page.reload()
    page.wait_for_selector(".card >> nth=1")
    gateway.publish(made(2), made(3))
    page.wait_for_selector(".card >> nth=2")
    ids = page.eval_on_selector_all(".card", "cards => cards.map(card => card.dataset.prediction)")
    assert sorted(ids) == sorted(made(n).prediction_id for n in (1, 2, 3))


def test_hostile_text_stays_text(page: Page, gateway: Running) -> None:
    event = made(1, source=HOSTILE[:200], tickers=('"><svg onload=alert(1)>',), model="<b>m</b>")
    gateway.bus.publish([outgoing(clean(event, body=HOSTILE))])
    gateway.bus.publish([outgoing(event)])
    gateway.promote(3, "<img src=x onerror=document.title='owned'>")
    page.wait_for_selector(".card")
    page.wait_for_selector(".toast")
    page.wait_for_timeout(300)
    assert page.locator(".card .text").text_content() == HOSTILE
    assert page.locator(".card img, .card script, .card b, .card svg, .toast img, .rail img, #model img").count() == 0
    assert "owned" not in page.title()
    assert page.locator("#model-version").text_content() == "<img src=x onerror=document.title='owned'>"


def test_an_address_is_a_link_only_if_it_is_a_web_address(page: Page, gateway: Running) -> None:
    for number, url in enumerate(("javascript:alert(1)", "https://news.example/a?b=1")):
        event = made(number, source=f"s{number}")
        text = json.loads(outgoing(clean(event)).value) | {"url": url}
        gateway.bus.publish([outgoing(clean(event))._replace(value=json.dumps(text).encode())])
        gateway.bus.publish([outgoing(event)])
    page.wait_for_selector(".card >> nth=1")
    links = page.eval_on_selector_all(".card a", "links => links.map(link => [link.href, link.rel])")
    assert links == [["https://news.example/a?b=1", "noopener noreferrer"]]


def test_the_filter(page: Page, gateway: Running) -> None:
    gateway.store(made(1), made(2, tickers=("XYZ",)))
    page.fill("#ticker", "xyz")
    expect(page.locator(".card")).to_have_count(1)
    page.wait_for_selector('#connection[data-state="live"]')
    gateway.publish(made(3), made(4, tickers=("XYZ", "ACME")))
    expect(page.locator(".card")).to_have_count(2)
    assert "ticker=xyz" in page.url
    page.locator(".card .tickers button", has_text="ACME").first.click()
    expect(page.locator("#ticker")).to_have_value("ACME")


def test_a_click_corrects_and_another_confirms(page: Page, gateway: Running) -> None:
    gateway.publish(made(1), made(2))
    page.wait_for_selector(".card >> nth=1")
    for number, label in ((1, "negative"), (2, "positive")):
        card = page.locator(f'.card[data-prediction="{made(number).prediction_id}"]')
        card.locator(".judge button", has_text=label).click()
        card.locator(".thanks").wait_for()
        assert "thanks, recorded" in card.locator(".judge").inner_text()
    events = {e.text_id: e for e in (decode(Feedback, r.value) for r in gateway.records(topics.FEEDBACK))}
    assert (events["text000001"].kind, events["text000001"].label) == ("correction", "negative")
    assert (events["text000002"].kind, events["text000002"].label) == ("confirmation", "positive")
    assert events["text000001"].annotator == events["text000002"].annotator
    named = gateway.execute("SELECT name FROM annotator WHERE pseudonym = %s", events["text000001"].annotator)
    assert named == [(page.inner_text("#annotator"),)]


def test_a_click_on_the_label_shows_which_words_make_it(
    page: Page, gateway: Running, scorer: ThreadingHTTPServer
) -> None:
    announce(gateway, scorer.server_port)
    body = f"🚀 soars {HOSTILE}"
    event = made(1)
    gateway.bus.publish([outgoing(clean(event, body=body))])
    gateway.bus.publish([outgoing(event)])
    page.locator(".card .chip").click()
    page.wait_for_selector(".card mark")
    assert page.locator(".card .text").text_content() == body
    assert page.locator(".card img, .card script").count() == 0
    marks = page.eval_on_selector_all(".card mark", "all => all.map(m => [m.textContent, m.className, m.title])")
    assert marks[:2] == [["🚀", "", "+0.50 by base-1"], ["soars", "", "+0.50 by base-1"]]
    assert marks[-1] == [body.split()[-1], "against", "−1.00 by base-1"]
    scorer.answer = (422, b'{"type":"","title":"","status":422,"detail":"it is odd"}')  # type: ignore[attr-defined]
    page.locator(".card .chip").click()
    page.wait_for_selector(".toast >> text=it is odd")


def on_desk(page: Page) -> str:
    """The prediction that is asked about."""
    found: str = page.locator("#asked .asked").get_attribute("data-prediction") or ""
    return found


def review(page: Page, gateway: Running, n: int = 8) -> None:
    """Start, with `n` texts waiting that aren't held out, and look at the first."""
    gateway.store(*[p for p in map(made, range(4 * n)) if not in_holdout(p.cluster)][:n])
    page.click("#review-toggle")
    page.wait_for_selector("#asked .asked")


def given(gateway: Running) -> list[tuple[str, str]]:
    """Prediction and label of every word so far, in no order."""
    events = [decode(Feedback, record.value) for record in gateway.records(topics.FEEDBACK)]
    return [(event.prediction_id, event.label) for event in events]


def test_a_review_by_keys_alone(page: Page, gateway: Running) -> None:
    review(page, gateway)
    wanted = []
    for key, label in (("1", "negative"), ("2", "neutral"), ("3", "positive"), ("Enter", "positive")):
        wanted.append((on_desk(page), label))
        page.keyboard.press(key)
        expect(page.locator("#asked .asked")).not_to_have_attribute("data-prediction", wanted[-1][0])
    skipped = on_desk(page)
    page.keyboard.press("s")
    expect(page.locator("#asked .asked")).not_to_have_attribute("data-prediction", skipped)
    expect(page.locator("#progress")).to_have_text("4 done · 3 to go")
    for _ in range(3):
        wanted.append((on_desk(page), "neutral"))
        page.keyboard.press("2")
    expect(page.locator("#asked-none")).to_have_text("Nothing waits for a word of yours now.")
    page.keyboard.press("u")
    wanted[-1] = (wanted[-1][0], "negative")
    assert on_desk(page) == wanted[-1][0]
    page.keyboard.press("1")
    page.click("#review-toggle")
    expect(page.locator("#desk")).to_be_hidden()
    page.wait_for_timeout(500)
    assert sorted(given(gateway)) == sorted(wanted)
    kinds = {decode(Feedback, record.value).kind for record in gateway.records(topics.FEEDBACK)}
    assert kinds == {"correction", "confirmation"}


def test_what_was_undone_was_never_sent(page: Page, gateway: Running) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if "/v1/feedback" in request.url else None)
    review(page, gateway)
    first = on_desk(page)
    page.keyboard.press("1")
    page.keyboard.press("u")
    expect(page.locator("#asked .asked")).to_have_attribute("data-prediction", first)
    page.keyboard.press("u")
    assert on_desk(page) == first, "there is nothing more to undo"
    page.wait_for_timeout(5_300)
    assert sent == []
    page.keyboard.press("3")
    page.wait_for_timeout(5_300)
    assert len(sent) == 1
    page.keyboard.press("u")
    assert on_desk(page) != first, "what was sent is said"
    assert given(gateway) == [(first, "positive")]


def test_keys_act_in_the_box_alone(page: Page, gateway: Running) -> None:
    review(page, gateway)
    first = on_desk(page)
    page.focus("#ticker")
    page.keyboard.type("123s")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("1")
    page.locator("#asked .text").click()
    page.keyboard.press("Control+1")
    assert on_desk(page) == first
    page.locator("#answers [data-label=negative]").click()
    expect(page.locator("#asked .asked")).not_to_have_attribute("data-prediction", first)
    second = on_desk(page)
    page.keyboard.press("Enter")  # on the button that was clicked
    page.keyboard.press("2")
    page.click("#review-toggle")
    page.wait_for_timeout(500)
    words = dict(given(gateway))
    assert (words[first], words[second]) == ("negative", "negative") and len(words) == 3


def test_a_review_that_breaks_off_loses_nothing(page: Page, gateway: Running) -> None:
    review(page, gateway)
    first = on_desk(page)
    body = json.dumps({"status": 503, "detail": "the log is away"})
    page.route("**/v1/feedback", lambda route: route.fulfill(status=503, body=body), times=1)
    page.keyboard.press("1")
    page.keyboard.press("2")
    page.wait_for_selector(".toast >> text=the log is away")
    assert on_desk(page) == first, "it comes back"
    page.keyboard.press("3")
    page.reload()
    page.wait_for_timeout(500)
    assert dict(given(gateway))[first] == "positive", "what was held back is sent when the page is left"
    page.click("#review-toggle")
    page.wait_for_selector("#asked .asked")
    assert on_desk(page) not in dict(given(gateway))


def test_the_box_is_accessible_and_shows_hostile_text_as_text(page: Page, gateway: Running) -> None:
    review(page, gateway, 1)
    (prediction,) = [p for p in map(made, range(4)) if not in_holdout(p.cluster)][:1]
    gateway.execute("UPDATE text SET body = %s WHERE text_id = %s", HOSTILE, prediction.text_id)
    page.reload()
    page.click("#review-toggle")
    page.wait_for_selector("#asked .asked")
    assert page.locator("#asked .text").text_content() == HOSTILE
    assert page.locator("#asked img, #asked script").count() == 0
    tree = page.locator("#review").aria_snapshot()
    for name in ("1 negative", "2 neutral", "3 positive", "s skip", "u undo"):
        assert f'button "{name}"' in tree, tree
    assert page.locator("#review-toggle").get_attribute("aria-expanded") == "true"
    assert page.evaluate("document.activeElement.id") == "desk"
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_correction_that_is_refused_can_be_tried_again(page: Page, gateway: Running) -> None:
    gateway.publish(made(1))
    page.wait_for_selector(".card")
    body = json.dumps({"status": 503, "detail": "the log is away"})
    page.route("**/v1/feedback", lambda route: route.fulfill(status=503, body=body), times=1)
    page.locator(".judge button", has_text="negative").click()
    page.wait_for_selector(".refused")
    assert page.inner_text(".refused") == "the log is away"
    page.locator(".judge button", has_text="negative").click()
    page.wait_for_selector(".thanks")


def test_a_promotion_moves_the_badge(page: Page, gateway: Running) -> None:
    gateway.promote(1, "base-1")
    expect(page.locator("#model-version")).to_have_text("base-1")
    gateway.promote(2, "child-7f3a")
    expect(page.locator("#model-version")).to_have_text("child-7f3a")
    page.wait_for_selector("#model.landed")
    assert page.inner_text("#model-epoch") == "epoch 2"
    page.wait_for_selector(".toast >> text=child-7f3a is in service")


def test_pause_holds_and_resume_shows(page: Page, gateway: Running) -> None:
    page.click("#pause")
    gateway.publish(made(1), made(2))
    expect(page.locator("#held")).to_have_text("2 new — show")
    assert page.locator(".card").count() == 0
    page.click("#held")
    page.wait_for_selector(".card >> nth=1")
    assert page.get_attribute("#pause", "aria-pressed") == "false"


def test_the_page_is_narrow_where_the_screen_is(page: Page, gateway: Running) -> None:
    gateway.publish(*(made(n, tickers=tuple(f"T{i}" for i in range(12))) for n in range(5)))
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_selector(".card")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_every_control_has_a_name(page: Page, gateway: Running) -> None:
    gateway.publish(made(1))
    page.wait_for_selector(".card")
    tree = page.locator("body").aria_snapshot()
    assert re.search(r'button "Correct to negative"', tree)
    assert re.search(r'button "Confirm positive"', tree)
    assert 'searchbox "Ticker"' in tree or 'combobox "Ticker"' in tree
    assert not re.search(r"- button$", tree, re.MULTILINE)


@pytest.fixture
def asked(chromium: Browser, start: Start, database: str) -> Iterator[tuple[Page, Running]]:
    """The page of a gateway that asks for a key, as it is opened first; nothing may go wrong but the keys."""
    new_key(database, name="somebody")
    gateway = start()
    opened = chromium.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.goto(gateway.url)
    yield opened, gateway
    opened.close()
    assert [words for words in complaints if not re.search("status of (401|403)", words)] == []


def unlock(page: Page, key: str) -> None:
    page.fill("#key", key)
    page.click("#unlock button")


def test_the_page_asks_for_a_key_once_and_judges_under_its_name(asked: tuple[Page, Running], database: str) -> None:
    page, gateway = asked
    gateway.store(made(1))
    expect(page.locator("#ask")).to_be_visible()
    assert page.locator("#ask-refused").inner_text() == ""
    unlock(page, "tl_wrong")
    expect(page.locator("#ask-refused")).to_contain_text("does not hold")
    source = new_key(database, "source", name="crawler")
    key = new_key(database, "annotator", name="<b>Zoë</b>")
    page.wait_for_timeout(1_200)  # a new key holds within a second
    unlock(page, source)
    expect(page.locator("#ask-refused")).to_contain_text("of crawler is a source's")
    unlock(page, f" {key} ")
    page.wait_for_selector('#connection[data-state="live"]')
    expect(page.locator("#ask")).to_be_hidden()
    expect(page.locator("#annotator")).to_have_text("<b>Zoë</b>")
    expect(page.locator("#made-up")).to_be_hidden()
    gateway.publish(made(2))
    page.wait_for_selector(".card >> nth=1")
    page.locator(".card .judge button", has_text="negative").first.click()
    page.wait_for_selector(".card .thanks")
    (event,) = [decode(Feedback, record.value) for record in gateway.records(topics.FEEDBACK)]
    assert gateway.execute("SELECT pseudonym, name FROM annotator") == [(event.annotator, "<b>Zoë</b>")]
    page.reload()
    page.wait_for_selector('#connection[data-state="live"]')
    assert page.locator("#ask").is_hidden()
    assert page.evaluate("[location.href, document.cookie, JSON.stringify(localStorage)].join()").count("tl_") == 0
    page.locator("footer nav a", has_text="models").click()
    page.wait_for_url(re.compile("^blob:"))
    assert page.locator("body").inner_text() == "[]"


def test_a_readers_page_offers_no_judgement(asked: tuple[Page, Running], database: str) -> None:
    page, gateway = asked
    key = new_key(database, "reader")
    gateway.store(made(1))
    page.wait_for_timeout(1_200)
    unlock(page, key)
    page.wait_for_selector(".card")
    assert page.locator(".card .judge").is_hidden() and page.locator("#review").is_hidden()


def test_an_operator_approves_of_a_new_model_on_the_page(page: Page, gateway: Running) -> None:
    register(gateway, "v1", "v2", "v3")
    expect(page.locator("#standing")).to_be_hidden()
    decide(gateway, "v1/promote", 0)
    propose(gateway, "v2")
    decide(gateway, "pin", 1, reason="<b>month's end</b>")
    page.reload()
    expect(page.locator("#standing-text")).to_contain_text("v2 is awaiting approval. better: +9 −1.")
    expect(page.locator("#standing-text")).to_contain_text("agrees with the champion in 71 %")
    expect(page.locator("#standing-text")).to_contain_text("Pinned by ops: <b>month's end</b>")
    expect(page.locator("#model-epoch")).to_have_text("epoch 1")
    page.locator("#verdict button", has_text="Approve").click()
    assert len(gateway.client.get("/v1/ledger").json()) == 4, "without a reason nothing is sent"
    page.fill("#why", "looks good")
    page.locator("#verdict button", has_text="Approve").click()
    expect(page.locator("#verdict")).to_be_hidden()
    expect(page.locator("#model-version")).to_have_text("v2")
    row = gateway.client.get("/v1/ledger").json()[-1]
    assert (row["action"], row["version"], row["reason"]) == ("promote", "v2", "looks good")
    propose(gateway, "v3")
    page.reload()
    page.fill("#why", "not now")
    page.locator("#verdict button", has_text="Reject").click()
    expect(page.locator("#verdict")).to_be_hidden()
    assert gateway.client.get("/v1/ledger").json()[-1]["action"] == "withdraw"


def test_a_readers_page_shows_a_new_model_and_decides_nothing(asked: tuple[Page, Running], database: str) -> None:
    page, gateway = asked
    register(gateway, "v1", "v2")
    operator, key = bearer(new_key(database)), new_key(database, "reader")
    page.wait_for_timeout(1_200)
    body = {"reason": "better", "expected_epoch": 0}
    assert gateway.client.post("/v1/models/v1/promote", json=body, headers=operator).status_code == 200
    propose(gateway, "v2")
    unlock(page, key)
    expect(page.locator("#standing-text")).to_contain_text("v2 is awaiting approval")
    expect(page.locator("#verdict")).to_be_hidden()


def test_a_page_whose_key_is_revoked_asks_again_and_goes_on(asked: tuple[Page, Running], database: str) -> None:
    page, gateway = asked
    first, second = (new_key(database, "annotator") for _ in range(2))
    page.wait_for_timeout(1_200)
    unlock(page, first)
    page.wait_for_selector('#connection[data-state="live"]')
    gateway.execute("UPDATE api_key SET revoked = 1 WHERE id = %s", first.split("_")[1])
    expect(page.locator("#ask")).to_be_visible(timeout=15_000)
    gateway.store(made(1))
    unlock(page, second)
    page.wait_for_selector('#connection[data-state="live"]')
    page.wait_for_selector(".card")


def test_a_stream_that_breaks_is_resumed_where_it_stopped(page: Page, gateway: Running) -> None:
    with httpx.stream("GET", f"{gateway.url}/v1/stream") as answer:
        place = next(line for line in answer.iter_lines() if line.startswith("id: "))
    gateway.publish(made(1))  # while the page isn't there; it is in no table, and comes by the stream or not at all
    short = f"retry: 1000\n{place}\nevent: hello\ndata: {{}}\n\n: still here\n\n"
    page.route("**/v1/stream", lambda route: route.fulfill(body=short, content_type="text/event-stream"), times=1)
    page.reload()
    page.wait_for_selector(f'.card[data-prediction="{made(1).prediction_id}"]')


def test_how_it_learns_is_told_with_the_evidence_and_an_operator_decides_on_words(page: Page, gateway: Running) -> None:
    register(gateway, "v1", "v2")
    judged(gateway, "passed", 200, 210)
    decide(gateway, "v1/promote", 0)
    rates = {"n": 300, "right": 150, "low": 0.4, "high": 0.6}
    verdict = {"look": 1, "gained": 60, "lost": 9, "p_value": 1e-9, "alpha": 0.0077, "needed": 1475, "power": 0.3,
               "champion": rates | {"rate": 0.5}, "challenger": rates | {"rate": 0.67}, "vetoes": [HOSTILE],
               "slices": [{"name": HOSTILE, "n": 60, "champion": 0.5, "challenger": 0.6, "adjusted": 0.9}]}  # fmt: skip
    gateway.bus.write(
        lambda cursor: [registry.decide(cursor, "refuse", "v2", actor="trainer", reason=HOSTILE, evidence=verdict)][:0]
    )
    gateway.execute(
        "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label, model, epoch,"
        " annotator, role, sampled, holdout, given)"
        " VALUES ('e1', 'f', 'p', 't', 't', 'neutral', 'positive', 'm', 1, %s, 'annotator', false, false, 1)", HOSTILE,
    )  # fmt: skip
    gateway.execute(
        "INSERT INTO quarantine (annotator, reason, subject, detail, words, found)"
        " VALUES (%s, 'burst', '', '99 words within 60 s', '{e1}', 5)", HOSTILE,
    )  # fmt: skip
    page.click("text=how it learns >> nth=0")
    expect(page.locator("#curve")).to_be_visible(timeout=30_000)
    assert "210" not in (alt := page.locator("#curve").get_attribute("alt") or "") and "50.0 % → 70.0 %" in alt
    assert page.evaluate("document.getElementById('curve').naturalWidth") > 0
    expect(page.locator("#history > li")).to_have_count(2)
    row = page.locator("#history > li").first
    expect(row.locator(".reason")).to_have_text(HOSTILE)
    row.locator("summary").click()
    expect(row.locator("details")).to_contain_text("50.0 % → 67.0 % of 300 held-out texts")
    expect(row.locator("tbody td").first).to_have_text(HOSTILE)
    expect(page.locator("#people th")).to_have_text([HOSTILE])
    expect(page.locator("#people .state-of")).to_have_text(["newcomer"])
    expect(page.locator("#findings .reason")).to_have_text("burst: 99 words within 60 s")
    page.locator("#findings button", has_text="Refuse").click()
    expect(page.locator("#findings-none")).to_be_visible()
    assert gateway.execute("SELECT state, decided_by FROM quarantine") == [("refused", "page")]
    assert page.title() == "tickerloop — how it learns"


def test_a_gateway_that_goes_away_is_shown(page: Page) -> None:
    page.route("**/v1/stream**", lambda route: route.fulfill(status=204))
    page.fill("#ticker", "Z")
    page.wait_for_selector('#connection[data-state="lost"]')
