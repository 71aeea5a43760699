// The page of one call, as it happens or from its record.
//
// Other modules put the buttons into #call-actions and the messages into #call-log. The modules that have the sound
// dispatch "call-level" and "call-cursor" on the document, and listen for "call-seek" (see lanes.js).
import { base, cost, csv, day, download, duration, goesOn, h, milliseconds, newer, now, request, Refused, showConnection, svg, timeOfDay } from "./common.js";
import { fileOf, Lanes } from "./lanes.js";
import { Recording } from "./recording.js";
import { grade, parts, percentile, Story } from "./story.js";
import { numbersButton, Stream } from "./stream.js";
import { Words } from "./words.js";

const POLL_MS = 1000;
const DRAW_MS = 200;
const OPEN_POLL_MS = 5000;
const OUTCOME_MS = 120_000; // how long after the call its outcome may arrive
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 15_000;
const MAX_BARS = 80;
const BYTE_ORDER_MARK = "\ufeff"; // without it, Excel does not read a CSV file as UTF-8

const place = document.getElementById("call");
const sid = place.dataset.callSid;
const path = `/calls/${encodeURIComponent(sid)}`;
const at = (id) => document.getElementById(id);

let summary = null;
let story = null;
let stream = null;
let drawn = -1;
let isFutile = false; // asking again changes nothing
let isMissing = false; // the first answer was that there is no such call: it may have just begun in another process
let asked = 0;
let answered = 0; // what was asked before this is out of date

const numbers = numbersButton(() => refresh());
const words = new Words(at("words"));
const lanes = new Lanes(at("lanes"), (id) => words.find(id));
const recording = new Recording(at("call-audio"), `${path}/audio.wav`, `${sid}.wav`);

at("zoom-in").addEventListener("click", () => lanes.zoom(1.6));
at("zoom-out").addEventListener("click", () => lanes.zoom(1 / 1.6));
at("zoom-fit").addEventListener("click", () => lanes.zoom(0));

// --- data ---

const isLive = () => goesOn(summary);

function awaitsOutcome() {
  const { state, record } = summary ?? {};
  const open = state === "ended" && record?.ended_at && !record.outcome && !record.outcome_error;
  return open && now() - Date.parse(record.ended_at) < OUTCOME_MS;
}

async function refresh() {
  const number = (asked += 1);
  try {
    const found = await request(`${path}?${numbers()}`);
    if (number < answered) return;
    answered = number;
    problem("");
    const wasLive = isLive();
    summary = newer(summary, found);
    story ??= new Story(found.record?.started_at ?? found.started_at);
    if (found.record) story.takeRecord(found.record, { live: isLive() });
    else story.total ??= found.cost;
    if (isLive() && !stream) follow();
    if (wasLive && !isLive()) drawn = -1;
  } catch (error) {
    if (!(error instanceof Refused) || number < answered) return; // the server is away: the stream reconnects, and so does this
    answered = number;
    if (error.status === 404 && !summary) {
      if (isMissing) unknown();
      isMissing = true;
      return;
    }
    if (error.status === 401) isFutile = true; // the sign-in page follows
    if (error.status === 404) summary = { ...summary, state: "ended" }; // it was not recorded
    else problem(error.message);
  }
  draw();
  // Not from the event of the end: the last details are written with it
  const isRecorded = summary?.record?.recording || story?.has("recording");
  if (summary?.state === "ended" && isRecorded) recording.show(story.startedAt);
}

function follow() {
  stream = new Stream(`${path}/events?${numbers()}`, {
    names: place.dataset.events.split(" "),
    on: (event) => {
      story.takeEvent(event);
      if (event.type === "call_ended") {
        answered = asked += 1;
        summary = { ...summary, state: "ended", ended_by: event.ended_by, reason: event.reason, duration_ms: event.duration_ms };
        setTimeout(refresh, 300);
      }
      drawSoon();
    },
    resync: () => refresh(),
    // Without events here, the call is over, or goes on elsewhere: its record says which
    done: async () => {
      await refresh();
      if (!isLive() && summary.state !== "ended") stream = null; // if it is found again, it is followed again
      return !isLive();
    },
  });
}

/** Say that there is no such call, in place of everything that would show it. */
function unknown() {
  isFutile = true;
  document.title = "No such call · phoneagent";
  document.getElementById("main").replaceChildren(h("div.card.empty", {},
    h("h1", {}, "No such call"),
    h("p", {}, "It is not live on this server, and there is no record of it."),
    h("p", {}, h("a", { href: `${base}/console/past` }, "All past calls"))));
}

function problem(text) {
  at("problem").hidden = !text;
  at("problem").textContent = text;
}

// --- display ---

let drawing = 0;
function drawSoon() {
  drawing ||= setTimeout(() => { drawing = 0; requestAnimationFrame(draw); }, DRAW_MS);
}

function draw() {
  if (!summary) return;
  head();
  if (!story) return;
  at("columns").classList.remove("waiting");
  lanes.show(story, story.length(), isLive());
  clock();
  if (story.version === drawn) return;
  drawn = story.version;
  const box = document.scrollingElement;
  const atEnd = innerHeight + box.scrollTop >= box.scrollHeight - 80;
  words.show(story.entries());
  at("words-empty").hidden = at("words").children.length > 0;
  at("words-empty").textContent = isLive() ? "Nothing has been said yet." : "Nothing was said.";
  if (isLive() && atEnd && box.scrollTop > 0) box.scrollTop = box.scrollHeight;
  facts();
  latencies();
  costs();
  at("legend-callee").hidden = ![...story.turns.values()].some((turn) => turn.role === "callee");
}

const FLOORS = { caller: "Caller speaks", agent: "Agent speaks", thinking: "Thinking", closing: "Goodbye", open: "Silence" };

function head() {
  const outbound = summary.direction?.startsWith("outbound");
  at("caller").textContent = (outbound ? summary.called : summary.caller) ?? "Number withheld";
  document.title = `${at("caller").textContent} · phoneagent`;
  const state = at("state");
  state.textContent = isLive() ? "Live" : { open: "Not ended", ended: "Ended" }[summary.state];
  state.className = `badge ${isLive() ? "good" : summary.ended_by === "error" ? "bad" : ""}`;
  const floor = at("floor");
  floor.hidden = !isLive() || !summary.floor;
  floor.textContent = FLOORS[summary.floor] ?? summary.floor ?? "";
  floor.className = `badge ${summary.floor === "caller" || summary.floor === "agent" ? summary.floor : ""}`;
}

function clock() {
  const length = summary.duration_ms ?? story.length();
  at("clock").textContent = `${day(summary.started_at)} ${timeOfDay(summary.started_at)} · ${duration(length)}`;
}

function facts() {
  const { record } = summary;
  rows(at("facts"), [
    ["Caller", summary.caller ?? "withheld"],
    ["Called", summary.called ?? "–"],
    ["Direction", summary.direction],
    ["Agent", summary.agent ?? [...story.turns.values()].findLast((turn) => turn.agent)?.agent ?? "–"],
    summary.ended_by && ["Ended by", `${summary.ended_by}: ${summary.reason}`],
    record?.recording && ["Recording", recorded(record.recording)],
    (record ?? summary).dead_air_ms && ["Longest silence", milliseconds((record ?? summary).dead_air_ms)],
    ["Call", h("code", {}, sid)],
    record?.streams.length > 1 && ["Media streams", String(record.streams.length)],
  ]);
  const state = Object.entries(summary.call_state ?? {});
  at("state-card").hidden = state.length === 0;
  rows(at("callstate"), state.map(valued));
  const outcome = Object.entries(record?.outcome ?? {}).map(valued);
  if (record?.outcome_error) outcome.push(["Not filled in", record.outcome_error]);
  at("outcome-card").hidden = outcome.length === 0;
  rows(at("outcome"), outcome);
}

function valued([name, value]) {
  return [name, h("code", { dir: "auto" }, typeof value === "string" ? value : JSON.stringify(value))];
}

function recorded({ status, duration_ms, complete }) {
  return [duration_ms === null ? status : duration(duration_ms), !complete && "not all of it was written"].filter(Boolean).join(", ");
}

function rows(list, pairs) {
  list.replaceChildren(...pairs.filter(Boolean).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, typeof value === "string" ? h("bdi", {}, value) : value)]));
}

function latencies() {
  const found = [...story.answers].sort((a, b) => a.at_ms - b.at_ms);
  const values = found.map((each) => each.latency_ms);
  at("latency-sum").textContent = values.length
    ? `p50 ${milliseconds(percentile(values, 0.5))} · p95 ${milliseconds(percentile(values, 0.95))}` : "";
  if (!values.length) {
    at("latency").replaceChildren(h("p.muted.none", {}, isLive() ? "No answer yet." : "No answer."));
    return;
  }
  const shown = found.slice(-MAX_BARS);
  const most = Math.max(1000, ...shown.map((each) => each.latency_ms));
  const [width, height] = [300, 84];
  const step = Math.min(28, width / shown.length);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height + 14}`, role: "img", "aria-label": `Latency of each answer: ${shown.map((each) => milliseconds(each.latency_ms)).join(", ")}` });
  for (const line of [500, 1000, 2000, 4000].filter((each) => each <= most)) {
    const y = height - (line / most) * (height - 14);
    const text = svg("text", { class: "tick", x: width, y: y - 3, "text-anchor": "end" });
    text.textContent = milliseconds(line);
    picture.append(svg("line", { class: "grid", x1: 0, x2: width, y1: y, y2: y }), text);
  }
  shown.forEach((each, number) => {
    const tall = Math.max(2, (each.latency_ms / most) * (height - 14));
    const bar = svg("rect", { class: `latency-bar ${grade(each.latency_ms)}`, x: number * step + 1, y: height - tall, width: Math.max(1, step - 3), height: tall, rx: 2 });
    const title = svg("title");
    title.textContent = `${duration(each.at_ms)}: ${milliseconds(each.latency_ms)}`;
    bar.append(title);
    picture.append(bar);
    if (shown.length <= 10) {
      const text = svg("text", { class: "tick", x: number * step + step / 2 - 0.5, y: height + 12, "text-anchor": "middle" });
      text.textContent = String(number + 1);
      picture.append(text);
    }
  });
  at("latency").replaceChildren(picture);
}

function costs() {
  const total = story.total ?? summary.cost;
  at("cost-sum").textContent = cost(total);
  const used = [...story.usage.values()];
  const tokens = (each, suffix) => ["text", "audio", "image"].reduce((sum, kind) => sum + (each[`${kind}_${suffix}`] ?? 0), 0);
  at("cost").replaceChildren(
    used.length
      ? h("table.usage", {},
          h("thead", {}, h("tr", {}, h("th", {}, "Model"), h("th.end", {}, "In"), h("th.end", {}, "Cached"), h("th.end", {}, "Out"), h("th.end", {}, "Cost"))),
          h("tbody", {}, used.map((each) => h("tr", {},
            h("td", {}, h("code", {}, each.model)),
            ...(each.audio_ms && !["in", "cached", "out"].some((suffix) => tokens(each, suffix)) // billed by the second
              ? [h("td.end.number", { colspan: "3" }, `${(each.audio_ms / 1000).toFixed(1)} s of audio`)]
              : ["in", "cached", "out"].map((suffix) => h("td.end.number", {}, tokens(each, suffix).toLocaleString("en")))),
            h("td.end.number", {}, cost(each.cost))))))
      : h("p.muted.none", {}, "No usage has been reported."));
}

// --- export ---

const exports = {
  json: () => ["application/json", JSON.stringify(summary.record ? summary : { ...summary, ...plain() }, null, 2)],
  csv: () => ["text/csv", BYTE_ORDER_MARK + csv([
    ["start_ms", "end_ms", "who", "kind", "text", "heard_text", "latency_ms", "interrupted"],
    ...story.entries().filter((entry) => entry.turn !== null).map(line),
  ])],
  svg: () => ["image/svg+xml", fileOf(lanes.picture())],
};

function plain() {
  return { turns: [...story.turns.values()], tool_calls: [...story.tools.values()], answers: story.answers, marks: story.marks };
}

function line(entry) {
  const { turn, tool } = entry;
  if (turn) return [turn.start_ms, turn.end_ms, turn.agent ?? turn.role, "turn", turn.text, parts(turn)[0], entry.latency_ms, turn.interrupted];
  if (tool) return [tool.at_ms, tool.ms === null || tool.ms === undefined ? "" : tool.at_ms + tool.ms, tool.name, "tool", `${tool.arguments} → ${tool.output ?? ""}`, "", "", ""];
  return [entry.at_ms, "", entry.role ?? "", entry.name ?? entry.kind, entry.text ?? "", "", "", ""];
}

for (const button of document.querySelectorAll("[data-export]")) {
  button.addEventListener("click", () => {
    if (!summary || !story) return;
    const kind = button.dataset.export;
    const [type, text] = exports[kind]();
    download(`${sid}.${kind}`, type, text);
    at("export").open = false;
  });
}

// --- while the page is open ---

/** Read the call again, as long as it may change, once the answer before has come. */
async function poll() {
  const mayChange = isLive() || summary?.state === "open" || awaitsOutcome();
  if (mayChange && document.visibilityState === "visible") await refresh();
  setTimeout(poll, isLive() ? POLL_MS : OPEN_POLL_MS);
}

setInterval(() => isLive() && story && drawSoon(), 500);
document.addEventListener("theme", () => draw());

/** Read the call for the first time, and again after growing pauses while the server is away. */
async function begin() {
  for (let wait = FIRST_WAIT_MS; ; wait = Math.min(wait * 2, LONGEST_WAIT_MS)) {
    await refresh();
    if (summary || isFutile) break;
    if (!isMissing) showConnection("waiting");
    await new Promise((done) => setTimeout(done, wait));
  }
  if (!isLive()) showConnection("");
  poll();
}

await begin();
