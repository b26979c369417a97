// How it learns: the curve, the ledger with its evidence and, for operators, quarantine and annotators. Whatever comes
// from people reaches the document as text only.

import { $, call, key, make, send, toast, unlocked } from "./common.js";

const LOOK_MS = 15000;
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const when = (ms) => new Date(ms).toLocaleString();

async function read(path) {
  const response = await call(path);
  return response.ok ? response.json() : null;
}

// ── the learning curve ───────────────────────────────────────────────────────────────────────────────────────────────
let judged = -1; // newest run that is drawn
async function drawCurve() {
  const runs = ((await read("/v1/training/runs?limit=200")) ?? []).filter((run) => run.challenger && run.champion.n);
  $("curve-none").hidden = runs.length > 0;
  if (!runs.length || runs[0].run === judged) return;
  const response = await call("/v1/training/curve.svg");
  if (!response.ok) return;
  const before = $("curve").src;
  $("curve").src = URL.createObjectURL(await response.blob());
  $("curve").hidden = false;
  if (before) URL.revokeObjectURL(before);
  judged = runs[0].run;
  const { champion, challenger, learned_from: labels } = runs[0];
  $("curve").alt = `Accuracy by labels. Last run, from ${labels} labels: ${percent(champion.rate)} → ${percent(challenger.rate)} of ${champion.n}.`;
}

// ── the ledger ───────────────────────────────────────────────────────────────────────────────────────────────────────
const written = new Set();
async function drawHistory() {
  for (const row of (await read("/v1/ledger")) ?? []) {
    if (written.has(row.epoch)) continue;
    written.add(row.epoch);
    $("history").prepend(decision(row));
  }
}

function decision(row) {
  const item = make("li");
  const details = make("details");
  const line = make("summary");
  const action = make("b", "action", row.action);
  action.dataset.action = row.action;
  line.append(make("span", "epoch", `${row.epoch}`), action, make("code", "", row.version), make("span", "reason", row.reason));
  line.append(make("span", "meta", `${row.actor} · ${when(row.at)}`));
  details.append(line, ...evidence(row.evidence));
  item.append(details);
  return item;
}

function evidence(found) {
  const nodes = [];
  if (found.challenger?.n) {
    nodes.push(make("p", "", `${percent(found.champion.rate)} → ${percent(found.challenger.rate)} of ${found.champion.n} held-out texts; right now and wrong before ${found.gained}, the reverse ${found.lost}; p = ${Number(found.p_value.toPrecision(2))}, α = ${Number(found.alpha.toPrecision(2))} at look ${found.look}. A gain of 3 points takes ${found.needed} labels; with these it is found in ${percent(found.power)}.`));
  }
  const parts = [...(found.slices ?? []), ...(found.edits ?? []).map((edit) => ({ ...edit, name: `edit: ${edit.name}` }))];
  if (parts.length) nodes.push(slices(parts));
  if (found.vetoes?.length) nodes.push(make("p", "veto", `Vetoed: ${found.vetoes.join("; ")}`));
  const { shadow } = found;
  if (shadow) nodes.push(make("p", "", `As a shadow on ${shadow.texts} texts it agreed with the champion in ${percent(shadow.agreement.rate)}.`));
  return nodes.length ? nodes : [Object.assign(make("pre", "", JSON.stringify(found, null, 1)), { tabIndex: 0 })];
}

function slices(parts) {
  const table = make("table");
  const head = make("tr");
  for (const name of ["slice", "texts", "before", "after", "p of no loss"]) head.append(Object.assign(make("th", "", name), { scope: "col" }));
  table.append(make("thead"), make("tbody"));
  table.tHead.append(head);
  for (const part of parts) {
    const row = make("tr");
    for (const cell of [part.name, part.n, percent(part.champion), percent(part.challenger), part.adjusted.toFixed(3)]) row.append(make("td", "", `${cell}`));
    table.tBodies[0].append(row);
  }
  return table;
}

// ── quarantine ───────────────────────────────────────────────────────────────────────────────────────────────────────
async function drawQuarantine() {
  const found = await read("/v1/quarantine?state=held");
  $("held-section").hidden = !found;
  if (!found || $("findings").contains(document.activeElement)) return;
  $("findings").replaceChildren(...found.map(finding));
  $("findings-none").hidden = found.length > 0;
}

function finding(row) {
  const item = make("li");
  item.append(make("b", "", row.annotator), make("span", "reason", `${row.reason}: ${row.detail}`), make("span", "meta", `${row.words.length} words`));
  for (const [name, act] of [["Release", "release"], ["Refuse", "refuse"]]) {
    const button = make("button", "pause", name);
    button.type = "button";
    button.addEventListener("click", () => settle(item, row, act));
    item.append(button);
  }
  return item;
}

async function settle(item, row, act) {
  let problem = "The gateway does not answer; try again.";
  try {
    const response = await send(`/v1/quarantine/${row.id}/${act}`, key ? {} : { actor: "page" });
    if (response.ok) {
      item.remove();
      return void drawQuarantine();
    }
    problem = (await response.json()).detail ?? problem;
  } catch { /* the line to the gateway broke: said below */ }
  toast("Not decided", problem);
}

// ── annotators ───────────────────────────────────────────────────────────────────────────────────────────────────────
async function drawPeople() {
  const found = await read("/v1/annotators");
  $("people-section").hidden = !found?.length;
  if (found) $("people").replaceChildren(...found.map(person));
}

function person({ name, state, reliability, gold, overlaps, weight }) {
  const row = make("tr");
  const right = make("td");
  if (reliability.n) right.append(interval(reliability));
  row.append(Object.assign(make("th", "", name), { scope: "row" }), make("td", "state-of", state), right);
  row.children[1].dataset.state = state;
  for (const cell of [reliability.n, of(gold), of(overlaps), weight.toFixed(2)]) row.append(make("td", "", `${cell}`));
  return row;
}

const of = ({ right, n }) => (n ? `${right.toFixed(0)} of ${n}` : "none");

function interval({ right, n, low, high }) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 12");
  svg.setAttribute("class", "interval");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${percent(right / n)}, between ${percent(low)} and ${percent(high)}`);
  const shape = (tag, values) => {
    const node = document.createElementNS(svg.namespaceURI, tag);
    for (const [name, value] of Object.entries(values)) node.setAttribute(name, value);
    svg.append(node);
  };
  shape("line", { x1: 0, x2: 100, y1: 6, y2: 6 });
  shape("rect", { x: 100 * low, width: Math.max(1, 100 * (high - low)), y: 3, height: 6, rx: 3 });
  shape("circle", { cx: (100 * right) / n, cy: 6, r: 4 });
  return svg;
}

// ── all of it ────────────────────────────────────────────────────────────────────────────────────────────────────────
let operator = false;
async function draw() {
  try {
    await Promise.all([drawCurve(), drawHistory(), ...(operator ? [drawQuarantine(), drawPeople()] : [])]);
  } catch { /* the line to the gateway broke: it is asked again by the clock below */ }
}

async function enter() {
  try {
    operator = (await read("/v1/key"))?.role === "operator";
  } catch { /* as above */ }
  draw();
}

setInterval(() => !document.hidden && !$("ask").open && draw(), LOOK_MS);
unlocked(enter, () => {});
