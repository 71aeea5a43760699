// Past calls: the search, the list, and their costs and latencies over time.
import { base, cost, csv, day, download, duration, h, milliseconds, request, signIn, timeOfDay } from "./common.js";
import { numbersButton } from "./stream.js";
import { grade, percentile } from "./story.js";
import uPlot from "./vendor/uplot.js";

const PAGE = 100;
const MAX_EXPORT = 5000;
const TYPING_MS = 350;
const BYTE_ORDER_MARK = "\ufeff"; // without it, Excel does not read a CSV file as UTF-8

const at = (id) => document.getElementById(id);
const form = at("search");
let calls = [];
let next = null;
let asked = 0;

const numbers = numbersButton(() => search());

// --- the search, which is kept in the URL ---

function fill() {
  const given = new URLSearchParams(location.search);
  for (const field of form.elements) if (field.name) field.value = given.get(field.name) ?? "";
}

function wanted() {
  const found = new URLSearchParams();
  for (const field of form.elements) {
    const value = tidy(field);
    if (field.name && value) found.set(field.name, value);
  }
  return found;
}

/** The value of a field as the records have it: single spaces between words, and numbers without what groups digits. */
function tidy({ name, value }) {
  const text = value.trim().replace(/\s+/g, " ");
  return name === "party" && /^[+\d\s().\/\u2010-\u2015-]+$/.test(text) ? text.replace(/[^+\d]/g, "") : text; // not a name, as of a SIP user
}

/** The parameters of the API: dates are whole days here, in the time zone of the browser. */
function parameters(limit, after) {
  const found = wanted();
  const midnight = (date, days) => {
    const [year, month, dayOfMonth] = date.split("-").map(Number);
    return new Date(year, month - 1, dayOfMonth + days).toISOString();
  };
  if (found.has("since")) found.set("since", midnight(found.get("since"), 0));
  if (found.has("until")) found.set("until", midnight(found.get("until"), 1));
  found.set("state", "ended");
  found.set("limit", limit);
  if (after) found.set("after", after);
  return `${found}&${numbers()}`;
}

async function search({ keep = false } = {}) {
  const number = (asked += 1);
  const query = wanted().toString();
  if (!keep) history.replaceState(null, "", query ? `?${query}` : location.pathname);
  await load(number, null);
}

async function load(number, after) {
  at("more").disabled = true; // its cursor is used once, and only with the calls that it continues
  try {
    const page = await request(`/calls?${parameters(PAGE, after)}`);
    if (number !== asked) return; // a later search has begun
    calls = after ? [...calls, ...page.calls] : page.calls;
    next = page.next;
    problem("");
    draw();
  } catch (error) {
    if (number === asked) problem(error.status ? error.message : "The server does not answer: try again.");
  } finally {
    if (number === asked) at("more").disabled = false;
  }
}

function problem(text) {
  at("problem").hidden = !text;
  at("problem").textContent = text;
}

let typing = 0;
form.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(search, TYPING_MS); });
form.addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(typing); search(); });
form.addEventListener("reset", () => setTimeout(search));
addEventListener("popstate", () => { fill(); search({ keep: true }); });
at("more").addEventListener("click", async () => {
  await load(asked, next);
  if (document.activeElement === document.body) at("more").focus({ preventScroll: true }); // it lost the focus when disabled
});

// --- the list ---

function draw() {
  at("past").replaceChildren(...calls.map(row));
  at("empty").hidden = calls.length > 0;
  at("empty-hint").textContent = wanted().toString()
    ? "No call matches all of that: leave something out." : "Calls are recorded as they happen, and stand here once they are over.";
  at("more").hidden = !next;
  plots();
}

/** A click anywhere in a row follows its link: in Safari, a link cannot cover a row. */
at("past").addEventListener("click", (event) => {
  const isPlain = !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);
  if (isPlain && !event.target.closest("a") && getSelection().isCollapsed) event.target.closest("tr")?.querySelector("a").click();
});

function row(call) {
  const p50 = call.latency_ms.response_p50;
  const outbound = call.direction?.startsWith("outbound");
  return h("tr", {},
    h("td.number", {}, h("a", { href: `${base}/console/calls/${encodeURIComponent(call.call_sid)}` }, `${day(call.started_at)} ${timeOfDay(call.started_at)}`)),
    h("td.number", {}, h("bdi", {}, (outbound ? `→ ${call.called ?? "withheld"}` : call.caller) ?? "withheld")),
    h("td", {}, h("bdi", {}, call.agent ?? "–")),
    h("td", { title: call.reason ?? "" }, h("span", { class: `badge ${call.ended_by === "error" || call.ended_by === "line" ? "bad" : ""}` }, call.ended_by ?? "–"), " ", h("span.muted", {}, call.reason ?? "")),
    h("td.end.number", {}, duration(call.duration_ms)),
    h("td", { class: `end number latency ${p50 === null ? "" : grade(p50)}` }, milliseconds(p50)),
    h("td.end.number", {}, milliseconds(call.dead_air_ms)),
    h("td.end.number", {}, cost(call.cost)));
}

// --- the plots ---

const drawn = {};

function plots() {
  const oldest = [...calls].reverse();
  const times = oldest.map((call) => new Date(call.started_at).getTime() / 1000);
  const latencies = oldest.map((call) => call.latency_ms.response_p50);
  const worst = oldest.map((call) => call.latency_ms.response_p95);
  const dollars = oldest.map((call) => (call.cost ? Number(call.cost.usd) : null));
  const known = latencies.filter((each) => each !== null);
  at("plot-latency-sum").textContent = known.length ? `median of ${counted(known.length)} ${milliseconds(percentile(known, 0.5))}` : "no answers";
  const sum = dollars.reduce((total, each) => total + (each ?? 0), 0);
  at("plot-cost-sum").textContent = calls.length ? `${counted(calls.length, next ? "+" : "")}, $${sum.toFixed(4)}` : "no calls";
  plot("plot-latency", [times, worst, latencies], [["p95", "--line-strong"], ["p50", "--accent"]], (value) => milliseconds(value));
  plot("plot-cost", [times, dollars], [["cost", "--caller"]], (value) => `$${value.toFixed(value < 0.1 ? 3 : 2)}`);
}

const counted = (count, more = "") => `${count}${more} ${count === 1 && !more ? "call" : "calls"}`;

function plot(id, data, series, show) {
  const box = at(id);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const font = `11px ${colour("--sans")}`;
  const axis = { stroke: colour("--muted"), font, grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  drawn[id]?.destroy();
  drawn[id] = null;
  if (data[0].length === 0) return;
  drawn[id] = new uPlot({
    width: box.clientWidth,
    height: box.clientHeight,
    padding: [8, 12, 0, 0],
    cursor: { y: false, points: { size: 7 } },
    scales: { x: { range: (_, least, most) => around(data[0], least, most) }, y: { range: (_, __, most) => [0, (most || 1) * 1.15] } },
    axes: [{ ...axis, size: 28, space: 64, values: dates }, { ...axis, size: 62, values: (_, values) => values.map((value) => show(value)) }],
    series: [{}, ...series.map(([label, token]) => ({
      label, stroke: colour(token), width: 1.5, spanGaps: true, points: { show: true, size: data[0].length > 60 ? 3 : 6, fill: colour(token) },
    }))],
  }, data, box);
}

/** The times that a plot shows: a little more than its data, and an hour for a single point. */
function around(times, least, most) {
  if (times.length === 1) return [times[0] - 1800, times[0] + 1800];
  const margin = (most - least) * 0.02;
  return [least - margin, most + margin];
}

/** Labels along a plot: times, and the date at the start of a day. */
function dates(_, values, __, ___, step) {
  let before = "";
  const clock = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(step < 60 && { second: "2-digit" }) };
  return values.map((value) => {
    const date = new Date(value * 1000);
    const today = date.toLocaleDateString([], { month: "short", day: "numeric" });
    const text = today === before ? date.toLocaleTimeString([], clock) : today;
    before = today;
    return text;
  });
}

let resizing = 0;
new ResizeObserver(() => {
  cancelAnimationFrame(resizing);
  resizing = requestAnimationFrame(() => {
    for (const [id, each] of Object.entries(drawn)) each?.setSize({ width: at(id).clientWidth, height: at(id).clientHeight });
  });
}).observe(at("plot-latency"));
document.addEventListener("theme", plots);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", plots);

// --- export: all calls that match, not only those shown ---

async function all() {
  const found = [];
  let after = null;
  do {
    const page = await request(`/calls?${parameters(200, after)}`);
    found.push(...page.calls);
    after = page.next;
  } while (after && found.length < MAX_EXPORT);
  problem(after ? `The file has only the latest ${found.length.toLocaleString("en")} of these calls: choose other dates for the rest.` : "");
  return found;
}

const COLUMNS = ["call_sid", "started_at", "ended_at", "duration_ms", "direction", "caller", "called", "agent", "ended_by", "reason", "dead_air_ms", "outcome_error"];

for (const button of document.querySelectorAll("[data-export]")) {
  button.addEventListener("click", async () => {
    at("export").open = false;
    try {
      const found = await all();
      if (button.dataset.export === "json") {
        download("calls.json", "application/json", JSON.stringify(found, null, 2));
        return;
      }
      const rows = found.map((call) => [...COLUMNS.map((name) => call[name]), call.latency_ms.response_p50, call.latency_ms.response_p95, call.cost?.usd, call.cost?.at_least, call.outcome && JSON.stringify(call.outcome)]);
      download("calls.csv", "text/csv", BYTE_ORDER_MARK + csv([[...COLUMNS, "latency_p50_ms", "latency_p95_ms", "cost_usd", "cost_at_least", "outcome"], ...rows]));
    } catch (error) {
      if (error.status === 401) signIn();
      else problem(error.message);
    }
  });
}

fill();
search({ keep: true });
