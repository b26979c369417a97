// The live page. Whatever comes from the stream reaches the document as text only (textContent, never markup); the
// server's Content-Security-Policy forbids the rest.

import { $, ask, call, key, make, send, toast, unlocked } from "./common.js";

const LABELS = ["negative", "neutral", "positive"];
const MAX_CARDS = 120;
const MAX_HELD = 500;
const MAX_RAIL = 12;
const SPARK_POINTS = 40;
const CALM_RATE = 5; // arrivals a second up to which a card may take its time to appear
const DESK = 5; // texts kept for this reader at a time
const REFILL = 3; // fewer on the desk, and more are asked for
const UNDO_MS = 5000; // longest that an answer is held back
const RETRY_MS = 1500; // before a stream that broke is resumed
const REVIEW_MS = 15000; // between two looks whether there is more to review
const RENEW_MS = 240000; // after which what is on the desk is asked for again: it is kept for ten minutes
const TRAINING_MS = 5000; // between two looks at how far a training is
const MEMORY = 5000; // ids remembered against doubles

// ── state ────────────────────────────────────────────────────────────────────────────────────────────────────────────
let source = null; // cancels the open stream
let epoch = -1;
let paused = false;
let reading = false; // somebody is about to judge a card: hold still
let waiting = []; // arrived, not shown yet
let drawing = false;
let arrivals = [];
const shown = new Set();
const tickers = new Map(); // ticker → { points, mean, count, at }
const filter = () => $("ticker").value.trim();

const annotator = (() => {
  try {
    const kept = localStorage.getItem("annotator");
    const name = kept || `reader-${Array.from(crypto.getRandomValues(new Uint8Array(4)), (n) => n.toString(16).padStart(2, "0")).join("")}`;
    localStorage.setItem("annotator", name);
    return name;
  } catch {
    return "reader-private";
  }
})();

// ── whose page this is ───────────────────────────────────────────────────────────────────────────────────────────────
async function enter() {
  let speaker = null;
  try {
    const response = await call("/v1/key");
    if (response.status === 401) return;
    if (response.status === 403) return ask((await response.json()).detail); // a source's key, which reads nothing
    if (response.ok) speaker = await response.json();
  } catch { /* what follows tries again by itself */ }
  $("annotator").textContent = speaker?.name ?? annotator;
  $("made-up").hidden = Boolean(key);
  document.body.dataset.may = speaker?.role === "reader" ? "read" : "judge";
  operator = speaker?.role === "operator";
  stand();
  refresh();
}

// ── one prediction ───────────────────────────────────────────────────────────────────────────────────────────────────
function card(prediction, fresh) {
  const node = $("card").content.firstElementChild.cloneNode(true);
  const find = (name) => node.querySelector(`.${name}`);
  node.dataset.mood = prediction.label;
  node.dataset.prediction = prediction.prediction_id;
  if (fresh) node.classList.add("fresh");
  find("chip").textContent = prediction.label;
  find("chip").title = "Which words make it so?";
  find("chip").disabled = !prediction.text;
  find("chip").addEventListener("click", () => explain(find("chip"), find("text"), prediction));
  if (prediction.abstained) {
    const mark = make("span", "abstained", "unsure");
    mark.title = "The model abstains: its greatest probability is below its threshold";
    find("chip").after(mark);
  }
  for (const ticker of prediction.tickers) {
    const button = make("button", "", ticker);
    button.type = "button";
    button.title = `Only ${ticker}`;
    button.addEventListener("click", () => choose(ticker));
    find("tickers").append(button);
  }
  find("source").append(link(prediction));
  const time = node.querySelector("time");
  const at = new Date(prediction.event_time);
  time.dateTime = at.toISOString();
  time.title = at.toLocaleString();
  time.textContent = at.toDateString() === new Date().toDateString() ? at.toLocaleTimeString() : at.toLocaleDateString();
  const text = find("text");
  text.textContent = prediction.text ?? "The text is not kept.";
  text.classList.toggle("gone", prediction.text === null);
  if (prediction.text) text.title = prediction.text.slice(0, 1000);
  const shares = prediction.probabilities.map((p) => Math.round(p * 100));
  LABELS.forEach((label, i) => { node.querySelector(`.bars .${label}`).style.flex = `${prediction.probabilities[i]} 1 0`; });
  find("bars").setAttribute("aria-label", LABELS.map((label, i) => `${label} ${shares[i]} %`).join(", "));
  find("numbers").textContent = shares.map((share) => `${share}`).join(" · ");
  find("numbers").title = "negative · neutral · positive, %";
  find("version").textContent = prediction.model;
  find("version").title = `model ${prediction.model}, epoch ${prediction.epoch}`;
  if (prediction.foreign) find("version").after(make("span", "foreign", `not meant for ${prediction.language}`));
  offerJudgement(find("judge"), prediction);
  return node;
}

function link(prediction) {
  try {
    const url = new URL(prediction.url);
    if (url.protocol === "https:" || url.protocol === "http:") {
      const anchor = make("a", "", prediction.source);
      Object.assign(anchor, { href: url.href, target: "_blank", rel: "noopener noreferrer" });
      return anchor;
    }
  } catch { /* no address, or none that a browser understands */ }
  return document.createTextNode(prediction.source);
}

// What the words add to the label is shown in the text: those for it on its colour, those against it underlined.
async function explain(chip, place, prediction) {
  chip.disabled = true;
  let problem = "The gateway does not answer; try again.";
  try {
    const response = await send("/v1/explain", { text: prediction.text, label: prediction.label });
    const answer = await response.json();
    if (response.ok) return place.replaceChildren(...attributed(prediction.text, answer));
    problem = answer.detail ?? problem;
  } catch { /* the line to the gateway broke: said below */ } finally {
    chip.disabled = false;
  }
  toast("No explanation", problem);
}

function attributed(text, { tokens, model }) {
  const characters = Array.from(text); // offsets count code points, JavaScript's strings UTF-16 units
  const most = Math.max(...tokens.map((token) => Math.abs(token.attribution)));
  const nodes = [];
  let at = 0;
  for (const { start, end, attribution } of tokens) {
    const mark = make("mark", attribution < 0 ? "against" : "", characters.slice(start, end).join(""));
    mark.style.setProperty("--share", `${Math.round((60 * Math.abs(attribution)) / most) || 0}%`);
    mark.title = `${attribution < 0 ? "−" : "+"}${Math.abs(attribution).toFixed(2)} by ${model}`;
    nodes.push(document.createTextNode(characters.slice(at, start).join("")), mark);
    at = end;
  }
  return [...nodes, document.createTextNode(characters.slice(at).join(""))];
}

function offerJudgement(place, prediction, problem) {
  place.replaceChildren();
  if (problem) place.append(make("span", "refused", problem));
  for (const label of LABELS) {
    const button = make("button", "", label);
    button.type = "button";
    button.dataset.mood = label;
    const agrees = label === prediction.label;
    if (agrees) button.dataset.agrees = "";
    button.setAttribute("aria-label", agrees ? `Confirm ${label}` : `Correct to ${label}`);
    button.addEventListener("click", () => judge(place, prediction, label));
    place.append(button);
  }
}

const named = () => (key ? {} : { annotator }); // a key has a name of its own
const give = (prediction, label, keepalive = false) => send("/v1/feedback", {
  prediction_id: prediction.prediction_id,
  text_id: prediction.text_id,
  kind: label === prediction.label ? "confirmation" : "correction",
  label,
  ...named(),
}, keepalive);

async function judge(place, prediction, label) {
  for (const button of place.querySelectorAll("button")) button.disabled = true;
  let problem = "The gateway does not answer; try again.";
  try {
    const response = await give(prediction, label);
    if (response.ok) {
      const thanks = make("span", "thanks", `${label} — thanks, recorded`);
      thanks.setAttribute("role", "status");
      place.replaceChildren(thanks);
      return;
    }
    problem = (await response.json()).detail ?? problem;
  } catch { /* the line to the gateway broke: said below */ }
  offerJudgement(place, prediction, problem);
}

// ── the review queue: texts that are kept for this reader, one at a time ─────────────────────────────────────────────
// An answer is held back for a moment, and sent with the next one at the latest: to undo it is never to have sent it.
let queue = []; // leases, the one on the desk first
let last = null; // the answer that is held back: { lease, label, timer }
let done = 0;
let beside = 0; // texts that wait for anybody
let asking = null;
let askedAt = 0;
const handled = new Set(); // leases that were answered or passed here
const reviewing = () => !$("desk").hidden;

function refill() {
  askedAt = performance.now();
  asking ??= askForMore().finally(() => { asking = null; show(); });
}

async function askForMore() {
  try {
    const response = await send("/v1/review/leases", { count: DESK, ...named() });
    const answer = await response.json();
    if (!response.ok) return void (response.status === 401 || toast("No texts to review", answer.detail));
    const mine = answer.leases.filter(({ lease }) => !handled.has(lease));
    const kept = queue.filter(({ lease }) => mine.some((other) => other.lease === lease));
    queue = [...kept, ...mine.filter(({ lease }) => !kept.some((other) => other.lease === lease))];
    beside = answer.waiting;
  } catch { /* the line to the gateway broke: it is asked again by the clock below */ }
}

let onDesk = "";
function show() {
  const [first] = queue;
  if ((first?.lease ?? "") !== onDesk) $("asked").replaceChildren(...(first ? [asked(first)] : []));
  onDesk = first?.lease ?? "";
  $("asked-none").hidden = Boolean(first);
  $("asked-none").textContent = asking ? "Looking for texts…" : "Nothing waits for a word of yours now.";
  // Not `disabled`: a button that has the focus would lose it, and with it the keys.
  for (const button of $("answers").children) button.setAttribute("aria-disabled", String(!(button.id === "undo" ? last : first)));
  $("progress").textContent = reviewing() ? `${done} done · ${queue.length + beside} to go` : "";
}

function asked({ prediction }) {
  const node = card(prediction, false);
  node.className = "asked";
  node.querySelector(".judge").remove();
  for (const button of $("answers").querySelectorAll("[data-label]")) {
    button.toggleAttribute("data-agrees", button.dataset.label === prediction.label);
  }
  return node;
}

function leave(lease) {
  queue = queue.filter((other) => other !== lease);
  handled.add(lease.lease);
  if (queue.length < REFILL) refill();
}

function bringBack(lease) {
  handled.delete(lease.lease);
  queue.unshift(lease);
  done -= 1;
}

function say(label) {
  const [lease] = queue;
  if (!lease) return;
  flush();
  last = { lease, label, timer: setTimeout(flush, UNDO_MS) };
  done += 1;
  leave(lease);
  show();
}

function pass() {
  const [lease] = queue;
  if (!lease) return;
  call(`/v1/review/leases/${lease.lease}`, { method: "DELETE" }).catch(() => { /* it runs out by itself */ });
  leave(lease);
  show();
}

function undo() {
  if (!last) return;
  clearTimeout(last.timer);
  bringBack(last.lease);
  last = null;
  show();
}

// Sends what is held back. What the gateway can't take now comes back to the desk.
async function flush() {
  if (!last) return;
  const { lease, label, timer } = last;
  clearTimeout(timer);
  last = null;
  show();
  let problem = "The gateway does not answer; try again.";
  try {
    const response = await give(lease.prediction, label, true);
    if (response.ok) return;
    problem = (await response.json()).detail ?? problem;
    if (![401, 429].includes(response.status) && response.status < 500) return void toast("Not taken", problem);
  } catch { /* the line broke: said below */ }
  toast("Not recorded", problem);
  bringBack(lease);
  show();
}

$("review-toggle").addEventListener("click", () => {
  const begins = !reviewing();
  $("desk").hidden = !begins;
  $("review-hint").hidden = begins;
  $("review-toggle").textContent = begins ? "Stop" : "Start";
  $("review-toggle").setAttribute("aria-expanded", String(begins));
  flush();
  if (begins) {
    refill();
    $("desk").focus();
  }
  show();
});

const ACTS = { 1: () => say("negative"), 2: () => say("neutral"), 3: () => say("positive"), s: pass, u: undo };
for (const button of $("answers").children) {
  button.addEventListener("click", () => ACTS[button.getAttribute("aria-keyshortcuts")]());
}
// Keys of one character act only while the focus is in the box (WCAG 2.1.4).
$("desk").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const confirms = event.key === "Enter" && queue.length && !event.target.closest("button, a");
  const act = confirms ? () => say(queue[0].prediction.label) : ACTS[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});
setInterval(() => {
  const stale = performance.now() - askedAt > RENEW_MS;
  if (reviewing() && !document.hidden && !$("ask").open && (stale || queue.length < REFILL)) refill();
}, REVIEW_MS);
window.addEventListener("pagehide", flush);

// ── what may change the champion next: a challenger under way, a pin, a cool-down ────────────────────────────────────
let operator = false;
let standing = null;
async function stand() {
  try {
    const response = await call("/v1/standing");
    if (!response.ok) return;
    standing = await response.json();
  } catch { return; /* asked again below */ }
  const { candidate, pinned, cooling_until: until, watched } = standing;
  const lines = [];
  if (candidate) lines.push(`${candidate.version} is ${candidate.state}. ${candidate.passed.reason}.`, ...shadowed(candidate));
  if (pinned) lines.push(`Pinned by ${pinned.actor}: ${pinned.reason}.`);
  if (until) lines.push(`After a rollback nothing is promoted until ${new Date(until).toLocaleString()}.`);
  if (watched?.labels) lines.push(`Since it came, ${watched.version} was right on ${watched.right} of ${watched.labels} labels, ${watched.former} on ${watched.former_right}.`);
  $("standing").hidden = !lines.length;
  $("standing-title").textContent = candidate ? "A new model" : "The model in service";
  $("standing-text").textContent = lines.join(" ");
  $("verdict").hidden = !operator || candidate?.state !== "awaiting approval";
}

function shadowed({ proposed }) {
  const said = proposed?.evidence.shadow;
  return said ? [`On ${said.texts} texts it agrees with the champion in ${Math.round(100 * said.agreement.rate)} %.`] : [];
}

$("verdict").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { candidate } = standing;
  $("standing-refused").textContent = "";
  try {
    const response = await send(`/v1/models/${candidate.version}/${event.submitter.value}`, {
      reason: $("why").value,
      expected_epoch: epoch,
      ...(!key && { actor: annotator }),
    });
    if (response.ok) $("why").value = "";
    else $("standing-refused").textContent = (await response.json()).detail ?? "";
  } catch { $("standing-refused").textContent = "The gateway does not answer; try again."; }
  stand();
});
setInterval(() => !document.hidden && !$("ask").open && stand(), REVIEW_MS);

// ── the flow of predictions ──────────────────────────────────────────────────────────────────────────────────────────
function arrive(prediction) {
  if (shown.has(prediction.prediction_id)) return;
  shown.add(prediction.prediction_id);
  if (shown.size > MEMORY) shown.delete(shown.values().next().value);
  arrivals.push(performance.now());
  if (epoch < 0) serve({ epoch: prediction.epoch, version: prediction.model }, false);
  waiting.push(prediction);
  if (waiting.length > MAX_HELD) waiting.shift();
  for (const ticker of prediction.tickers) learn(ticker, prediction.sentiment);
  if (!drawing) {
    drawing = true;
    requestAnimationFrame(draw);
  }
}

function draw() {
  drawing = false;
  const holding = paused || reading;
  $("held").hidden = !holding || !waiting.length;
  $("held").textContent = `${waiting.length >= MAX_HELD ? `${MAX_HELD}+` : waiting.length} new — show`;
  if (!holding && waiting.length) {
    const newest = waiting.splice(0).slice(-MAX_CARDS);
    const calm = arrivals.filter((at) => performance.now() - at < 1000).length <= CALM_RATE;
    prepend(newest.reverse().map((prediction) => card(prediction, calm)));
  }
  drawRail();
}

function prepend(nodes) {
  const list = $("stream");
  list.prepend(...nodes);
  while (list.childElementCount > MAX_CARDS) list.lastElementChild.remove();
  $("empty").hidden = list.childElementCount > 0;
}

function hold(change) {
  change();
  draw();
}

$("pause").addEventListener("click", () => hold(() => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  $("pause").textContent = paused ? "Resume" : "Pause";
}));
$("held").addEventListener("click", () => {
  if (paused) $("pause").click();
  hold(() => { reading = false; });
  window.scrollTo({ top: 0, behavior: "smooth" });
});
const judging = (target) => Boolean(target?.closest?.(".judge"));
const still = (now) => now !== reading && hold(() => { reading = now; });
$("stream").addEventListener("pointerover", (event) => still(judging(event.target)));
$("stream").addEventListener("pointerleave", () => still(judging(document.activeElement) && document.activeElement.matches(":focus-visible")));
$("stream").addEventListener("focusin", (event) => still(event.target.matches(":focus-visible")));
$("stream").addEventListener("focusout", (event) => still(judging(event.relatedTarget)));

// ── tickers ──────────────────────────────────────────────────────────────────────────────────────────────────────────
function learn(ticker, sentiment) {
  const known = tickers.get(ticker) ?? { points: [], mean: sentiment, count: 0, at: 0 };
  known.mean += (sentiment - known.mean) * Math.max(0.12, 1 / (known.count + 1)); // running, and forgetting slowly
  known.count += 1;
  known.at = performance.now();
  known.points.push(known.mean);
  if (known.points.length > SPARK_POINTS) known.points.shift();
  tickers.delete(ticker);
  tickers.set(ticker, known);
  if (tickers.size > 500) tickers.delete(tickers.keys().next().value);
}

let railDrawn = 0;
let railDue = 0;
function drawRail() {
  const wait = 250 - (performance.now() - railDrawn);
  if (wait > 0) {
    // What comes too soon is drawn a little later, not with the next prediction: that may take minutes.
    railDue ||= setTimeout(() => { railDue = 0; drawRail(); }, wait);
    return;
  }
  railDrawn = performance.now();
  const busiest = [...tickers].sort((a, b) => b[1].count - a[1].count).slice(0, MAX_RAIL);
  $("rail-empty").hidden = busiest.length > 0;
  const held = $("rail").contains(document.activeElement) ? document.activeElement.dataset.ticker : null;
  $("rail").replaceChildren(...busiest.map(([ticker, known]) => railRow(ticker, known)));
  if (held) $("rail").querySelector(`[data-ticker="${CSS.escape(held)}"]`)?.focus();
  $("known").replaceChildren(...busiest.map(([ticker]) => Object.assign(make("option"), { value: ticker })));
}

function railRow(ticker, known) {
  const row = make("li");
  const button = make("button");
  button.type = "button";
  button.dataset.ticker = ticker;
  button.dataset.mood = known.mean > 0.15 ? "positive" : known.mean < -0.15 ? "negative" : "neutral";
  button.setAttribute("aria-pressed", String(filter().toLowerCase() === ticker.toLowerCase()));
  button.addEventListener("click", () => choose(filter().toLowerCase() === ticker.toLowerCase() ? "" : ticker));
  const mean = make("span", "mean", `${known.mean < -0.005 ? "−" : "+"}${Math.abs(known.mean).toFixed(2)}`);
  button.title = `${ticker}: running mean ${mean.textContent} over ${known.count} mentions`;
  button.append(make("b", "", ticker), spark(known.points), mean);
  row.append(button);
  return row;
}

function spark(points) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 72 22");
  svg.setAttribute("aria-hidden", "true");
  const axis = document.createElementNS(svg.namespaceURI, "line");
  for (const [name, value] of [["x1", 0], ["x2", 72], ["y1", 11], ["y2", 11]]) axis.setAttribute(name, value);
  const line = document.createElementNS(svg.namespaceURI, "polyline");
  const step = 72 / Math.max(1, points.length - 1);
  const at = points.length > 1 ? points : [points[0], points[0]];
  line.setAttribute("points", at.map((p, i) => `${(i * (points.length > 1 ? step : 72)).toFixed(1)},${(11 - Math.max(-1, Math.min(1, p * 1.6)) * 10).toFixed(1)}`).join(" "));
  svg.append(axis, line);
  return svg;
}

function choose(ticker) {
  $("ticker").value = ticker;
  refresh();
}

// ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────────
function serve(change, announce) {
  if (!change || change.epoch <= epoch) return;
  const first = epoch < 0;
  epoch = change.epoch;
  $("model-version").textContent = change.version;
  $("model-version").title = change.version;
  $("model-epoch").textContent = `epoch ${change.epoch}`;
  if (first && !announce) return;
  $("model").classList.remove("landed");
  void $("model").offsetWidth; // starts the animation anew
  $("model").classList.add("landed");
  const title = change.action === "rollback" ? `Rolled back to ${change.version}` : `${change.version} is in service`;
  toast(title, change.previous ? `It replaces ${change.previous}.` : "");
}

// A thin line while a run tunes the next model.
async function follow() {
  try {
    const response = await call("/v1/status");
    const detail = response.ok ? (await response.json()).training?.detail : null;
    $("training").hidden = !detail;
    if (!detail) return;
    const { stage, method, step, of, eta_s: left } = detail;
    if (step) $("training").value = step / of;
    else $("training").removeAttribute("value"); // at work, no telling how far
    $("training").title = `Training (${method ?? "starting"}): ${stage ?? ""}${step ? `, step ${step} of ${of}, ${left} s left at most` : ""}`;
  } catch { $("training").hidden = true; }
}
setInterval(() => !document.hidden && !$("ask").open && follow(), TRAINING_MS);

// ── the connection ───────────────────────────────────────────────────────────────────────────────────────────────────
function connection(state, words) {
  $("connection").dataset.state = state;
  $("connection").textContent = words;
}

const heard = {
  hello: ({ champion }) => { connection("live", "live"); serve(champion, false); },
  prediction: arrive,
  model: (change) => serve(change, true),
  truncated: () => toast("A gap", "Predictions from while you were away are no longer kept."),
};

// By fetch, since an EventSource can't send a key; it resumes by the last event's id, as that would.
async function connect() {
  source?.abort();
  const mine = source = new AbortController();
  const query = filter() ? `?ticker=${encodeURIComponent(filter())}` : "";
  let last = "";
  connection("connecting", "connecting");
  while (mine === source) {
    try {
      const response = await call(`/v1/stream${query}`, { headers: last && { "Last-Event-ID": last }, signal: mine.signal });
      if (response.status === 401) return; // asked for, and then begun anew
      if (response.status === 200) {
        for await (const { id, event, data } of events(response.body)) {
          if (mine !== source) return;
          if (data) heard[event]?.(JSON.parse(data));
          last = id ?? last;
        }
      }
    } catch { /* the line broke, or was left for another: said below */ }
    if (mine !== source) return;
    connection("lost", "reconnecting");
    await new Promise((done) => setTimeout(done, RETRY_MS));
  }
}

// Server-sent events as the gateway writes them: fields of one line each, an empty line after every event.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const blocks = (held + read.value).split("\n\n");
    held = blocks.pop();
    for (const block of blocks) yield Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s, 2)));
  }
}

async function fill() {
  const wanted = filter();
  const query = new URLSearchParams({ limit: "40", ...(wanted && { ticker: wanted }) });
  try {
    const response = await call(`/v1/predictions?${query}`);
    if (!response.ok || wanted !== filter()) return;
    const { items } = await response.json();
    const older = items.filter((item) => !shown.has(item.prediction_id));
    for (const item of [...older].reverse()) {
      shown.add(item.prediction_id);
      for (const ticker of item.tickers) learn(ticker, item.sentiment);
    }
    $("stream").append(...older.map((item) => card(item, false)));
    $("empty").hidden = $("stream").childElementCount > 0;
    drawRail();
  } catch { /* the stream goes on without what came before */ }
}

function refresh() {
  shown.clear();
  waiting = [];
  reading = false;
  $("stream").replaceChildren();
  $("empty").hidden = false;
  const wanted = filter();
  $("stream-title").textContent = wanted ? `Predictions on ${wanted}` : "Predictions";
  history.replaceState(null, "", wanted ? `?ticker=${encodeURIComponent(wanted)}` : "/");
  railDrawn = 0;
  connect();
  fill();
  draw();
}

let typing = 0;
$("ticker").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(refresh, 300); });
$("filter").addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(typing); refresh(); });
window.addEventListener("pagehide", () => { source?.abort(); source = null; });
window.addEventListener("pageshow", (event) => event.persisted && refresh());

setInterval(() => {
  const now = performance.now();
  arrivals = arrivals.filter((at) => now - at < 5000);
  $("rate").textContent = `${(arrivals.length / 5).toFixed(1)} / s`;
}, 1000);

$("ticker").value = new URLSearchParams(location.search).get("ticker") ?? "";
unlocked(enter, () => connection("lost", "needs a key"));
