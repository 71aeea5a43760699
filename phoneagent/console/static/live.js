// The list of live calls. Only the rows in view are elements, so a thousand calls cost no more than twenty.
import { base, cost, day, duration, goesOn, h, milliseconds, now, request, Refused, timeOfDay } from "./common.js";
import { numbersButton, Stream } from "./stream.js";

const ROW_PX = 46;
const SPARE_ROWS = 6;
const PAGE = 200;
const MAX_CALLS = 5000;
const LATEST = 8;
const LATE_MS = 5000; // so long after its end, the server may still list a call
const FORGET_MS = 60_000;

const list = document.getElementById("calls");
const rows = document.getElementById("rows");
const find = document.getElementById("find");
const calls = new Map(); // by sid, newest first once sorted
const over = new Map(); // when each call ended that has ended lately: the list may still have it
const drawn = new Map(); // the rows that are elements
let shown = [];
let loaded = false;
let stream = null;

const numbers = numbersButton(() => { calls.clear(); follow(); latest(); });
document.getElementById("try").textContent = `phoneagent sim call ${location.origin}${base}/twilio/voice`;

// --- events ---

const FLOORS = {
  caller_spoke: "caller", agent_answered: "agent", agent_paused: "caller", agent_resumed: "agent", barge_in: "caller",
};

function take(event) {
  if (event.type === "call_started") {
    const known = calls.get(event.call_sid);
    calls.set(event.call_sid, {
      floor: "open", state: "open", ...known, call_sid: event.call_sid, caller: event.caller, called: event.called,
      direction: event.direction, started_at: known?.started_at ?? event.at, since: Date.now(),
    });
    over.delete(event.call_sid);
    learnSoon();
  } else if (event.type === "call_ended" || event.type === "call_handed_over") {
    over.set(event.call_sid, Date.now());
    if (calls.delete(event.call_sid)) latestSoon();
  }
  const call = calls.get(event.call_sid);
  if (call) {
    if (event.type in FLOORS) call.floor = FLOORS[event.type];
    if (event.type === "agent_answered") call.last_latency_ms = event.latency_ms;
    if (event.type === "usage_reported") call.cost = event.total;
    if (event.type === "tool_called") call.floor = "thinking";
    if (event.type === "turn_ended") {
      call.floor = event.turn.role === "caller" ? "thinking" : "open";
      if (event.turn.agent) call.agent = event.turn.agent;
    }
    call.version = (call.version ?? 0) + 1;
  }
  drawSoon();
}

/** All calls in a state. */
async function inState(state) {
  const found = [];
  for (let after = ""; found.length < MAX_CALLS; ) {
    const page = await request(`/calls?state=${state}&limit=${PAGE}&${numbers()}${after}`);
    found.push(...page.calls);
    if (!page.next) break;
    after = `&after=${encodeURIComponent(page.next)}`;
  }
  return found;
}

/** Read all live calls again: those of the process that answers, and those of others, which are open in the database. */
async function read() {
  const begun = Date.now();
  forget();
  try {
    let trouble = "";
    const elsewhere = await inState("open").catch((error) => { // the database is away: the own calls are still read
      trouble = `Calls of other processes cannot be read: ${error.message}`;
      return [...calls.values()].filter((call) => call.state !== "live");
    });
    const found = [...elsewhere.filter(goesOn), ...await inState("live")].filter((call) => !over.has(call.call_sid));
    const sids = new Set(found.map((call) => call.call_sid));
    for (const [sid, call] of calls) if (!sids.has(sid) && !(call.since > begun)) calls.delete(sid);
    for (const call of found) {
      const known = calls.get(call.call_sid);
      const floor = call.state === "open" ? (known?.floor ?? "not ended") : call.floor; // only its process knows more
      calls.set(call.call_sid, { ...known, ...call, floor, version: begun });
    }
    loaded = true;
    problem(trouble);
  } catch (error) {
    if (error instanceof Refused) problem(error.message);
  }
  draw();
}

/** Forget the ends that the list knows by now, and calls that were lost in a crash. */
function forget() {
  for (const [sid, at] of over) if (at < Date.now() - LATE_MS) over.delete(sid);
  for (const [sid, call] of calls) if (!goesOn(call)) calls.delete(sid);
}

/** Read the agents of calls that have just begun, all of them at once. */
let learning = 0;
function learnSoon() {
  learning ||= setTimeout(async () => {
    learning = 0;
    const page = await request(`/calls?state=live&limit=${PAGE}&${numbers()}`).catch(() => ({ calls: [] }));
    for (const call of page.calls) {
      const known = calls.get(call.call_sid);
      if (known) calls.set(call.call_sid, { ...known, ...call, version: Date.now() });
    }
    draw();
  }, 400);
}

// --- drawing ---

let drawing = 0;
function drawSoon() {
  drawing ||= setTimeout(() => { drawing = 0; requestAnimationFrame(draw); }, 150);
}

function draw() {
  const wanted = find.value.trim().toLowerCase();
  shown = [...calls.values()].sort((a, b) => (a.started_at < b.started_at ? 1 : a.started_at > b.started_at ? -1 : 0));
  if (wanted) shown = shown.filter((call) => `${call.caller} ${call.called} ${call.agent}`.toLowerCase().includes(wanted));
  document.getElementById("count").textContent = loaded ? String(calls.size) : "";
  document.getElementById("empty").hidden = !loaded || calls.size > 0;
  const none = document.getElementById("none-found");
  none.hidden = !wanted || shown.length > 0 || calls.size === 0;
  none.textContent = `No call matches.${/\d/.test(wanted) && !numbers().endsWith("full") ? " Numbers are hidden: press “Show numbers” to search in them." : ""}`;
  list.hidden = loaded && calls.size === 0;
  list.setAttribute("aria-rowcount", String(shown.length + 1));
  rows.style.setProperty("--rows", shown.length);
  drawRows();
}

function drawRows() {
  const box = rows.getBoundingClientRect();
  const first = Math.max(0, Math.floor(-box.top / ROW_PX) - SPARE_ROWS);
  const last = Math.min(shown.length, Math.ceil((innerHeight - box.top) / ROW_PX) + SPARE_ROWS);
  const kept = new Set();
  for (let index = first; index < last; index += 1) {
    const call = shown[index];
    kept.add(call.call_sid);
    let row = drawn.get(call.call_sid);
    const isPressed = row?.element.matches(":active"); // a click on a link that was made anew since the press would be lost
    if (!row || (row.version !== call.version && !isPressed)) {
      const element = makeRow(call);
      if (row) {
        const focused = row.element.contains(document.activeElement);
        row.element.replaceWith(element);
        if (focused) element.querySelector("a").focus();
      }
      row = { element, version: call.version, index: -1 };
      drawn.set(call.call_sid, row);
    }
    if (row.index !== index) {
      row.index = index;
      row.element.style.setProperty("--row", index);
      row.element.setAttribute("aria-rowindex", String(index + 2));
    }
  }
  for (const [sid, row] of drawn) {
    if (kept.has(sid)) continue;
    row.element.remove();
    drawn.delete(sid);
  }
  const elements = [...kept].map((sid) => drawn.get(sid).element);
  elements.forEach((element, place) => {
    if (rows.children[place] !== element) rows.insertBefore(element, rows.children[place] ?? null);
  });
}

function makeRow(call) {
  const at = call.last_latency_ms;
  return h("div.calls-row", { role: "row" },
    h("span.who", { role: "cell" },
      h("a", { href: `${base}/console/calls/${encodeURIComponent(call.call_sid)}` },
        h("bdi", {}, party(call)))),
    h("span.agent-name", { role: "cell" }, h("bdi", {}, call.agent ?? "–")),
    h("span.floor", { role: "cell" }, h("span", { class: `badge ${FLOOR_LOOK[call.floor] ?? ""}` }, call.floor ?? "–")),
    h("span.end.number.since", { role: "cell", "data-since": call.started_at }, elapsed(call.started_at)),
    h("span", { role: "cell", class: `end number latency ${grade(at)}` }, milliseconds(at)),
    h("span.end.number.cost", { role: "cell" }, cost(call.cost)),
  );
}

const FLOOR_LOOK = { caller: "caller", agent: "agent", closing: "warn" };

const grade = (ms) => (ms === null || ms === undefined ? "" : ms < 800 ? "good" : ms < 1500 ? "fair" : "poor");
const elapsed = (date) => duration(now() - new Date(date));
const party = (call) => (call.direction?.startsWith("outbound") ? `→ ${call.called ?? "withheld"}` : call.caller ?? "withheld");

setInterval(() => {
  for (const { element } of drawn.values()) {
    const since = element.querySelector(".since");
    since.textContent = elapsed(since.dataset.since);
  }
}, 1000);

setInterval(() => { forget(); drawSoon(); }, FORGET_MS);

function problem(text) {
  const place = document.getElementById("problem");
  place.hidden = !text;
  place.textContent = text;
}

// --- the latest ended calls ---

let soon = 0;
function latestSoon() {
  soon ||= setTimeout(() => { soon = 0; latest(); }, 700);
}

async function latest() {
  const page = await request(`/calls?state=ended&limit=${LATEST}&${numbers()}`).catch(() => null);
  if (!page) return;
  document.getElementById("ended").replaceChildren(
    ...page.calls.map((call) =>
      h("a.ended-call", { href: `${base}/console/calls/${encodeURIComponent(call.call_sid)}` },
        h("bdi.who", {}, party(call)),
        h("bdi.muted.agent-name", {}, call.agent ?? ""),
        h("span.muted.reason", {}, call.reason ?? ""),
        h("span.muted.number.when", {}, `${day(call.started_at)} ${timeOfDay(call.started_at)}`),
        h("span.number.end", {}, duration(call.duration_ms)),
        h("span.number.end.cost", {}, cost(call.cost)))),
    ...(page.calls.length ? [] : [h("p.muted", {}, "None yet. Calls that are over stand here if they are recorded.")]),
  );
}

function follow() {
  stream?.close();
  stream = new Stream(`/events?${numbers()}`, {
    names: list.dataset.events.split(" "), on: take, resync: read, done: () => false,
  });
}

addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
addEventListener("resize", () => requestAnimationFrame(drawRows));
find.addEventListener("input", draw);
follow();
latest();
