// The timeline of a call: the caller's and the agent's lanes, with tools, latencies and interruptions.
import { duration, milliseconds, svg } from "./common.js";
import { grade, parts, SPEAKERS } from "./story.js";

const TOP = 24;
const LANE = 46;
const GAP = 22; // between the lanes, for the latencies
const LANES = { caller: TOP, agent: TOP + LANE + GAP };
const LANE_OF = { ...LANES, callee: LANES.agent }; // a callee speaks before or after the agent, not at the same time
const TOOLS = LANES.agent + LANE + 10;
const TOOL = 20;
const HEIGHT = TOOLS + TOOL + 10;
const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 86_400];
const TICK_CHAR_PX = 6.2;
const LEAST_PX_S = 1; // less for a call that does not fit otherwise
const MOST_PX_S = 120;
const COMFORT_PX_S = 11;
const LIVE_S = 28; // a growing picture keeps its scale: this many seconds are in view
const END_PX = 16; // after the end of the call
const LEVEL_MS = 100;
const MAX_LEVELS = 36_000;

export class Lanes {
  #box; #scale = 0; #story = null; #length = 1000; #live = false; #cursor = null; #pressed = false;
  #levels = { caller: new Map(), agent: new Map() };

  /** `pick(id)` is called with the clicked entry. */
  constructor(box, pick) {
    this.#box = box;
    box.addEventListener("click", (event) => {
      const entry = event.target.closest("[data-entry]");
      if (entry) pick(entry.dataset.entry);
      const edge = box.firstElementChild?.getBoundingClientRect().left ?? 0;
      document.dispatchEvent(new CustomEvent("call-seek", { detail: { at_ms: ((event.clientX - edge) / this.#pixels()) * 1000 } }));
    });
    // A click on a block that was drawn anew since the press would be lost
    box.addEventListener("pointerdown", ({ target, button }) => (this.#pressed = button === 0 && target !== box)); // that is its scroll bar
    for (const name of ["pointerup", "pointercancel"]) addEventListener(name, () => this.#pressed && setTimeout(() => this.#release()));
    new ResizeObserver(() => this.draw()).observe(box);
    // Modules that have the audio report it: {side: "caller" | "agent", at: when it ended, level: 0…1}, and the cursor: {at_ms}.
    document.addEventListener("call-level", ({ detail }) => this.#hear(detail));
    document.addEventListener("call-cursor", ({ detail }) => this.#point(detail?.at_ms ?? null));
  }

  zoom(factor) {
    const middle = (this.#box.scrollLeft + this.#box.clientWidth / 2) / this.#pixels();
    this.#scale = factor === 0 ? this.#fit() : Math.min(MOST_PX_S, Math.max(Math.min(LEAST_PX_S, this.#fit()), this.#pixels() * factor));
    this.draw();
    this.#box.scrollLeft = middle * this.#pixels() - this.#box.clientWidth / 2;
  }

  show(story, length, live) {
    [this.#story, this.#length, this.#live] = [story, length, live];
    this.draw();
  }

  #release() {
    this.#pressed = false;
    this.draw();
  }

  /** The room for the picture. */
  #width() {
    const { paddingLeft, paddingRight } = getComputedStyle(this.#box);
    return this.#box.clientWidth - Number.parseFloat(paddingLeft) - Number.parseFloat(paddingRight);
  }

  #fit() {
    return (this.#width() - END_PX) / (this.#length / 1000);
  }

  #pixels() {
    return this.#scale || (this.#live ? Math.max(COMFORT_PX_S, this.#width() / LIVE_S) : Math.max(this.#fit(), COMFORT_PX_S));
  }

  draw() {
    const box = this.#box;
    if (!this.#story || !box.clientWidth || this.#pressed) return;
    const atEnd = box.scrollLeft + box.clientWidth >= box.scrollWidth - 24;
    box.replaceChildren(this.picture());
    if (this.#live && atEnd) box.scrollLeft = box.scrollWidth;
  }

  /** The picture as an SVG element. */
  picture() {
    const scale = this.#pixels();
    const x = (ms) => Math.round((ms / 1000) * scale * 10) / 10;
    const width = Math.max(Math.ceil(x(this.#length)) + END_PX, this.#width());
    const entries = this.#story.entries();
    const root = svg("svg", {
      width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": summary(entries, this.#length),
    });
    root.append(pattern(), ...axis(width, scale), ...lanes(width));
    for (const side of ["caller", "agent"]) root.append(this.#wave(side, x));
    if (this.#levels.caller.size || this.#levels.agent.size) root.classList.add("heard");
    const turns = entries.filter((entry) => SPEAKERS.includes(entry.kind));
    const next = (entry) => turns.find((each) => each.kind === entry.kind && each.at_ms > entry.at_ms)?.at_ms ?? this.#length;
    for (const entry of entries) {
      if (entry.turn === null) root.append(open(entry, x, this.#length));
      else if (entry.turn) root.append(turn(entry, x, next(entry), this.#length));
      else if (entry.kind === "tool") root.append(tool(entry, x, this.#length, entries.find((each) => each.kind === "tool" && each.at_ms > entry.at_ms)?.at_ms));
      else root.append(mark(entry, x));
      if (entry.kind === "agent" && entry.turn?.interrupted && !entry.turn.live) root.append(cut(entry, x));
      if (entry.handedFrom) root.append(...handOff(entry, x));
    }
    for (const answer of this.#story.answers) root.append(latency(answer, x));
    if (this.#live) root.append(svg("line", { class: "now", x1: x(this.#length), x2: x(this.#length), y1: TOP - 6, y2: HEIGHT - 6 }));
    if (this.#cursor !== null) {
      root.append(svg("line", { class: "cursor", x1: x(this.#cursor), x2: x(this.#cursor), y1: 0, y2: HEIGHT }));
    }
    return root;
  }

  #hear({ side, at: end, level }) {
    const levels = this.#levels[side];
    if (!this.#story) return;
    const at = Math.floor((end - this.#story.startedAt - LEVEL_MS / 2) / LEVEL_MS);
    levels.set(at, Math.max(levels.get(at) ?? 0, Math.min(1, level)));
    if (levels.size > MAX_LEVELS) levels.delete(levels.keys().next().value); // the oldest
  }

  #wave(side, x) {
    const middle = LANES[side] + LANE / 2;
    const bars = [];
    for (const [at, level] of this.#levels[side]) {
      const half = (level * (LANE - 8)) / 2;
      if (half > 0.5) bars.push(`M${x((at + 0.5) * LEVEL_MS)} ${middle - half}v${half * 2}`);
    }
    return svg("path", { class: `wave ${side}`, d: bars.join("") });
  }

  #point(at_ms) {
    this.#cursor = at_ms;
    const line = this.#box.querySelector(".cursor");
    if (at_ms === null || !line) {
      this.draw();
      return;
    }
    const x = (at_ms / 1000) * this.#pixels();
    for (const end of ["x1", "x2"]) line.setAttribute(end, x);
    const { scrollLeft, clientWidth } = this.#box;
    if (x < scrollLeft || x > scrollLeft + clientWidth - END_PX) this.#box.scrollLeft = x - clientWidth / 8;
  }
}

function summary(entries, length) {
  const count = (kind) => entries.filter((entry) => entry.kind === kind).length;
  const cuts = entries.filter((entry) => entry.turn?.interrupted && !entry.turn.live).length;
  const others = count("callee") ? `${count("callee")} of the callee, ` : "";
  return `${duration(length)}: ${count("caller")} turns of the caller, ${count("agent")} of the agent, ${others}${cuts} interrupted, ${count("tool")} tools`;
}

/** Speech that was not heard is hatched. */
function pattern() {
  return svg("defs", {},
    svg("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("rect", { class: "hatch-ground", width: 6, height: 6 }),
      svg("rect", { class: "hatch", width: 2, height: 6 })));
}

function axis(width, scale) {
  const step = STEPS_S.find((each) => each * scale >= 70) ?? STEPS_S.at(-1);
  const found = [];
  for (let at = 0; at * scale < width; at += step) {
    found.push(svg("line", { class: "grid", x1: at * scale, x2: at * scale, y1: 16, y2: HEIGHT }));
    const label = duration(at * 1000);
    if (at * scale + 4 + label.length * TICK_CHAR_PX > width) break; // it would be cut off
    const text = svg("text", { class: "tick", x: at * scale + 4, y: 12 });
    text.textContent = label;
    found.push(text);
  }
  return found;
}

function lanes(width) {
  return Object.values(LANES).map((y) => svg("rect", { class: "lane", x: 0, y, width, height: LANE, rx: 6 }));
}

function titled(element, ...lines) {
  const title = svg("title");
  title.textContent = lines.filter(Boolean).join("\n");
  element.prepend(title);
  return element;
}

/** A turn whose words have not come yet. */
function open(entry, x, length) {
  return titled(
    svg("rect", { class: `block open ${entry.kind}`, x: x(entry.at_ms), y: LANE_OF[entry.kind], width: Math.max(3, x(length) - x(entry.at_ms)), height: LANE, rx: 6 }),
    `The ${entry.kind} speaks`,
  );
}

function turn({ kind, id, turn, latency_ms, cut: interruption }, x, next, length) {
  const y = LANE_OF[kind];
  const start = x(turn.start_ms);
  const width = Math.max(3, x(turn.end_ms) - start);
  const group = svg("g", { class: `turn ${kind}`, "data-entry": id });
  const unheard = turn.live || kind !== "agent" ? 0 : turn.said_ms - turn.heard_ms;
  if (unheard > 100) {
    const rest = x(Math.min(turn.end_ms + unheard, Math.max(next, turn.end_ms), length)) - start - width;
    if (rest > 2) group.append(svg("rect", { class: "block unheard", x: start + width - 4, y: y + 6, width: rest + 4, height: LANE - 12, rx: 5, fill: "url(#hatch)" }));
  }
  group.append(svg("rect", { class: `block ${kind}`, x: start, y, width, height: LANE, rx: 6 }));
  for (const pause of turn.pauses) {
    group.append(titled(
      svg("rect", { class: "pause", x: x(pause.start_ms), y, width: Math.max(2, x(pause.end_ms) - x(pause.start_ms)), height: LANE }),
      `Paused ${milliseconds(pause.end_ms - pause.start_ms)}: ${pause.cause}`,
    ));
  }
  const [heard, rest] = parts(turn);
  if (width > 34) {
    const words = svg("text", { class: "said", x: 8, y: 19 });
    words.textContent = heard;
    const who = svg("text", { class: "who", x: 8, y: 36 });
    who.textContent = kind === "agent" ? turn.agent ?? "agent" : `${kind === "callee" ? "callee · " : ""}${((turn.end_ms - turn.start_ms) / 1000).toFixed(1)} s`;
    group.append(svg("svg", { x: start, y, width: width - 6, height: LANE }, words, who));
  }
  const reaction = interruption?.reaction_ms;
  return titled(group, `${duration(turn.start_ms)} ${kind}: ${heard}`, rest.trim() && `not heard: ${rest.trim()}`,
    latency_ms !== null && `latency ${milliseconds(latency_ms)}`,
    turn.interrupted && !turn.live && `interrupted${reaction ? `, silent after ${milliseconds(reaction)}` : ""}`);
}

/** A tool is as wide as its name, or as it took; its name leaves room for the tool that is next. */
function tool({ id, isLost, tool: { name, at_ms, ms, output } }, x, length, next = Infinity) {
  const took = x(ms === null || ms === undefined ? Math.max(length - at_ms, 0) : ms);
  const width = Math.max(3, took, Math.min(16 + name.length * 6.4, x(next - at_ms) - 2));
  const label = svg("text", { class: "tool-name", x: 7, y: 14 });
  label.textContent = width > 34 ? name : "";
  return titled(
    svg("g", { class: "tool-block", "data-entry": id },
      svg("rect", { x: x(at_ms), y: TOOLS, width, height: TOOL, rx: 5 }),
      svg("svg", { x: x(at_ms), y: TOOLS, width, height: TOOL }, label)),
    `${duration(at_ms)} ${name}`, ms === null || ms === undefined ? (isLost ? "no result" : "runs") : milliseconds(ms), output && output.slice(0, 200),
  );
}

function mark({ id, kind, at_ms, text }, x) {
  const at = x(at_ms);
  const shape = kind === "trouble"
    ? svg("path", { d: `M${at} ${TOOLS + 2}l8 15h-16z` })
    : ["stream", "handover", "transfer"].includes(kind)
      ? svg("line", { x1: at, x2: at, y1: 16, y2: HEIGHT })
      : svg("circle", { cx: at, cy: LANES.agent - GAP / 2, r: 4 });
  shape.setAttribute("class", `mark ${kind}`);
  shape.setAttribute("data-entry", id);
  return titled(shape, `${duration(at_ms)} ${kind} ${text ?? ""}`);
}

function cut({ cut: told, turn }, x) {
  const at = x(told?.at_ms ?? turn.end_ms); // the record has no separate moment for it
  return titled(
    svg("path", { class: "cut", d: `M${at} ${LANES.caller}V${LANES.agent + LANE}` }),
    `${duration(told?.at_ms ?? turn.end_ms)} interrupted`, told?.reaction_ms && `silent after ${milliseconds(told.reaction_ms)}`,
  );
}

function handOff(entry, x) {
  const label = svg("text", { class: "hand-off-name", x: x(entry.at_ms) + 5, y: LANES.agent - 7 });
  label.textContent = `→ ${entry.turn.agent}`;
  return [svg("line", { class: "hand-off", x1: x(entry.at_ms), x2: x(entry.at_ms), y1: LANES.agent - 16, y2: LANES.agent + LANE }), label];
}

/** The time that the caller waited, as a bar between the lanes. */
function latency({ at_ms, latency_ms }, x) {
  const start = x(Math.max(0, at_ms - latency_ms));
  const width = Math.max(2, x(at_ms) - start);
  const y = LANES.agent - GAP / 2;
  const group = svg("g", { class: `wait ${grade(latency_ms)}` }, svg("rect", { x: start, y: y - 2, width, height: 4, rx: 2 }));
  return titled(group, `${duration(at_ms)} answered after ${milliseconds(latency_ms)}`);
}

/** The picture as the text of a separate file, with the colors that it has on the page. */
export function fileOf(picture) {
  const room = document.createElement("div");
  room.className = "lanes"; // without it, the styles of the picture do not apply
  room.append(picture);
  document.body.append(room);
  const names = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "paint-order", "fill-opacity", "opacity", "font-size", "font-family", "font-weight"];
  for (const element of picture.querySelectorAll("*")) {
    const style = getComputedStyle(element);
    const found = names.map((name) => `${name}:${style.getPropertyValue(name)}`).join(";");
    element.setAttribute("drawn-style", found);
  }
  for (const element of picture.querySelectorAll("[data-entry]")) element.removeAttribute("data-entry");
  const ground = getComputedStyle(document.documentElement).getPropertyValue("--surface").trim();
  picture.setAttribute("drawn-style", `background:${ground}`);
  room.remove();
  return new XMLSerializer().serializeToString(picture).replaceAll(' drawn-style="', ' style="');
}
