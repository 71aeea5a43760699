// The messages of a call, as they arrive: a list that only draws its visible rows, and one message in full.
import { goesOn, h, request, Refused, timeOfDay } from "./common.js";

const ROW_PX = 26;
const MORE_ROWS = 8; // drawn above and below the visible ones
const MAX_KEPT = 10_000;
const WAIT_SECONDS = 15;
const AWAY_MS = 3000;
const RESUME_MS = 60_000;

const section = document.getElementById("call-log");
const path = `/calls/${encodeURIComponent(section.dataset.callSid)}/log`;

let all = [];
let shown = [];
let chosen = null;
let after = 0;
let earlier = 0; // the number of the last message that came from an earlier process
let isRunning = false;
let isPressed = false; // on a row, which then stays under the pointer
let isAtEnd = true;
const drawn = new Map(); // the visible rows by number

const toggle = h("button", { type: "button", "aria-expanded": "false", "aria-controls": "log-body", onclick: open }, "Show");
const words = h("input", { id: "log-filter", type: "search", placeholder: "type or text", autocomplete: "off", oninput: refilter });
const side = h("select", { id: "log-side", onchange: refilter },
  h("option", { value: "" }, "Both sides"), h("option", { value: "caller" }, "Caller"), h("option", { value: "model" }, "Model"));
const audio = h("input", { id: "log-audio", type: "checkbox", onchange: refilter });
const copy = h("button", { type: "button", onclick: copyAll }, "Copy as JSON");
const count = h("span.muted.number", { role: "status" });
const rows = h("div.log-rows", { role: "listbox", "aria-label": "Messages", tabindex: "0", onscroll: draw, onkeydown: move });
const inside = h("div.log-inside");
const detail = h("pre", { class: "log-detail", tabindex: "0", "aria-label": "The chosen message", hidden: true });
const problem = h("p.note", { hidden: true, role: "status" });
const body = h("div", { id: "log-body", hidden: true },
  h("div.log-bar", {},
    h("label", { for: "log-filter" }, "Filter"), words,
    h("label.only-read", { for: "log-side" }, "Side"), side,
    h("label", { for: "log-audio", class: "check" }, audio, " audio"), count, h("span.end", {}, copy)),
  problem, rows, detail);
rows.append(inside);
mount();

/** Show the log below the rest of the page: for a live call, and for another one if the log is not empty. */
async function mount() {
  try {
    const call = await request(path.replace(/\/log$/, ""));
    if (!goesOn(call)) await request(`${path}?limit=1`);
  } catch {
    return;
  }
  section.append(h("div.card.log", {}, h("div.card-head", {}, h("h2", {}, "Event log"), h("span.end", {}, toggle)), body));
}

function open() {
  body.hidden = !body.hidden;
  toggle.textContent = body.hidden ? "Show" : "Hide";
  toggle.setAttribute("aria-expanded", String(!body.hidden));
  if (!body.hidden && !isRunning) follow();
  draw();
}

// --- reading ---

async function follow() {
  isRunning = true;
  let wait = 0;
  let refusedSince = 0;
  while (!body.hidden && !document.hidden) { // the tabs of a server share six connections
    try {
      const page = await request(`${path}?after=${after}&wait=${wait}`);
      refusedSince = 0;
      if (page.next < after) { // the call has come back to a process that counts its own messages
        [after, wait, earlier] = [0, 0, all.at(-1).number];
        tell("The call has continued after a restart: messages in between are missing.");
        continue;
      }
      if (page.missed && after > 0) tell("Some messages came faster than they could be read, and are missing.");
      wait = page.messages.length ? 0 : WAIT_SECONDS;
      after = page.next;
      take(page.messages.map((each) => ({ ...each, number: each.number + earlier })));
      if (page.messages.length) await new Promise((done) => setTimeout(done, 250));
    } catch (error) {
      if (error instanceof Refused) {
        if (!all.length) tell(error.message);
        refusedSince ||= Date.now();
        if (!all.length || Date.now() - refusedSince > RESUME_MS) break; // until then, the call may come back
      }
      await new Promise((done) => setTimeout(done, AWAY_MS));
    }
  }
  isRunning = false;
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !body.hidden && !isRunning) follow();
});

function tell(text) {
  problem.hidden = !text;
  problem.textContent = text;
}

function take(messages) {
  if (!messages.length) return;
  if (!isPressed) isAtEnd = rows.scrollTop + rows.clientHeight >= rows.scrollHeight - ROW_PX;
  isPressed = inside.matches(":active");
  all.push(...messages);
  if (all.length > MAX_KEPT) all = all.slice(-MAX_KEPT);
  refilter();
  if (isAtEnd && !isPressed) rows.scrollTop = rows.scrollHeight;
}

// --- the filter ---

const isAudio = ({ type }) => type === "media" || type.endsWith("audio.delta") || type.endsWith("buffer.append");

function refilter() {
  const wanted = words.value.trim().toLowerCase();
  shown = all.filter((each) =>
    (audio.checked || !isAudio(each)) &&
    (!side.value || each.side === side.value) &&
    (!wanted || each.type.toLowerCase().includes(wanted) || JSON.stringify(each.data).toLowerCase().includes(wanted)));
  count.textContent = `${shown.length} of ${all.length}`;
  inside.style.setProperty("height", `${shown.length * ROW_PX}px`);
  draw();
}

async function copyAll() {
  const text = JSON.stringify(shown, null, 2);
  try {
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
  } catch {
    copy.textContent = "Not allowed";
  }
  setTimeout(() => { copy.textContent = "Copy as JSON"; }, 2000);
}

// --- drawing ---

function draw() {
  if (body.hidden) return;
  const first = Math.max(0, Math.floor(rows.scrollTop / ROW_PX) - MORE_ROWS);
  const last = Math.min(shown.length, Math.ceil((rows.scrollTop + rows.clientHeight) / ROW_PX) + MORE_ROWS);
  const visible = shown.slice(first, last);
  const numbers = new Set(visible.map((each) => each.number));
  for (const [number, element] of drawn) {
    if (numbers.has(number)) continue;
    element.remove();
    drawn.delete(number);
  }
  visible.forEach((each, index) => { // a row stays the same element: a click on one that is made anew would be lost
    if (!drawn.has(each.number)) drawn.set(each.number, row(each));
    const element = drawn.get(each.number);
    if (inside.children[index] !== element) inside.insertBefore(element, inside.children[index] ?? null);
    put(element, each, first + index);
  });
  const active = chosen && document.getElementById(`log-${chosen.number}`) ? `log-${chosen.number}` : "";
  if (active) rows.setAttribute("aria-activedescendant", active);
  else rows.removeAttribute("aria-activedescendant");
}

function put(element, { number }, place) {
  element.style.setProperty("top", `${place * ROW_PX}px`);
  element.setAttribute("aria-selected", String(chosen?.number === number));
  element.setAttribute("aria-setsize", String(shown.length));
  element.setAttribute("aria-posinset", String(place + 1));
}

function row(message) {
  const { number, at, side, direction, type, bytes } = message;
  const arrow = direction === "in" ? "→" : "←";
  return h("div", {
    id: `log-${number}`, role: "option", class: "log-row", onclick: () => choose(message),
  },
  h("span.number", {}, `${timeOfDay(at)}.${String(new Date(at).getMilliseconds()).padStart(3, "0")}`),
  h("span", { class: `badge ${side === "caller" ? "caller" : "agent"}` }, `${side} ${arrow}`),
  h("span.mono.log-type", {}, type),
  h("span.number.muted", {}, `${bytes} B`));
}

function choose(message) {
  chosen = message;
  detail.hidden = !message;
  detail.textContent = message ? JSON.stringify(message.data, null, 2) : "";
  draw();
}

function move(event) {
  const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
  if (!step || !shown.length) return;
  event.preventDefault();
  const here = chosen ? shown.findIndex((each) => each.number === chosen.number) : -1;
  const next = Math.min(shown.length - 1, Math.max(0, here + step));
  const top = next * ROW_PX;
  if (top < rows.scrollTop) rows.scrollTop = top;
  if (top + ROW_PX > rows.scrollTop + rows.clientHeight) rows.scrollTop = top + ROW_PX - rows.clientHeight;
  choose(shown[next]);
}
