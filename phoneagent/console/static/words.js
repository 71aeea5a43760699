// The conversation of a call as a list: what each side said, how much of it was heard, and the events in between.
import { duration, h, milliseconds } from "./common.js";
import { grade, parts } from "./story.js";

const NAMES = {
  message: "Message", key: "Key", silence: "Silence", trouble: "Trouble", stream: "New media stream",
  handover: "Handed over", transfer: "Transfer", recording: "Recording", control: "Control",
  tool: "Tool", caller: "Caller", agent: "Agent", callee: "Callee",
};
const OPEN_CHARS = 160; // longer arguments and outputs are folded

export class Words {
  #list; #drawn = new Map();

  constructor(list) {
    this.#list = list;
  }

  /** Show these entries. The elements of unchanged entries stay, with their selection and open parts. */
  show(entries) {
    const kept = new Set();
    entries.forEach((entry, place) => {
      const text = JSON.stringify(entry);
      let drawn = this.#drawn.get(entry.id);
      if (!drawn || drawn.text !== text) {
        const element = draw(entry);
        drawn?.element.replaceWith(element);
        drawn = { element, text };
        this.#drawn.set(entry.id, drawn);
      }
      kept.add(entry.id);
      if (this.#list.children[place] !== drawn.element) this.#list.insertBefore(drawn.element, this.#list.children[place] ?? null);
    });
    for (const [id, drawn] of this.#drawn) {
      if (kept.has(id)) continue;
      drawn.element.remove();
      this.#drawn.delete(id);
    }
  }

  find(id) {
    const element = this.#drawn.get(id)?.element;
    if (!element) return;
    const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
    element.scrollIntoView({ block: "center", behavior: isStill ? "instant" : "smooth" });
    element.classList.remove("found");
    requestAnimationFrame(() => element.classList.add("found"));
  }
}

function draw(entry) {
  const { kind, at_ms, turn } = entry;
  const who = kind === "agent" ? turn?.agent ?? "Agent" : NAMES[kind] ?? sentence(entry.name);
  return h("li", { class: `entry ${kind}${turn?.live || turn === null ? " live" : ""}`, "data-kind": kind },
    h("span.at.number", {}, moment(at_ms)),
    h("span.who", {}, h("bdi", {}, who)),
    h("div.what", {}, ...content(entry)));
}

const sentence = (name) => `${name[0].toUpperCase()}${name.slice(1).replaceAll("_", " ")}`;

function moment(ms) {
  return `${duration(ms)}.${Math.floor((ms % 1000) / 100)}`;
}

function content(entry) {
  if (entry.turn === null) return [h("span.muted", {}, "speaks…")];
  if (entry.turn) return said(entry);
  if (entry.kind === "tool") return toolCall(entry.tool, entry.isLost);
  if (entry.kind === "silence") {
    return [h("span", {}, `${entry.text === "apology" ? "An apology" : "A filler"} was played after ${milliseconds(entry.ms)} without an answer.`)];
  }
  if (entry.kind === "message") return [h("span.badge", {}, entry.role), " ", h("span", { dir: "auto" }, entry.text)];
  if (entry.kind === "key") return [entry.text ? h("kbd", {}, entry.text) : h("span.muted", {}, "a secret digit")];
  return [h("span", { dir: "auto" }, entry.text ?? "")];
}

function said({ turn, cut, latency_ms, handedFrom }) {
  const [heard, rest] = parts(turn);
  const facts = [
    handedFrom && h("span.badge.agent", {}, h("span", {}, "from "), h("bdi", {}, handedFrom)),
    latency_ms !== null && h("span", { class: `latency number ${grade(latency_ms)}`, title: "from the end of the caller's speech to the first audio" }, `answered in ${milliseconds(latency_ms)}`),
    turn.interrupted && !turn.live && h("span.badge.warn", { title: `heard ${milliseconds(turn.heard_ms)} of ${milliseconds(turn.said_ms)}` },
      cut?.reaction_ms ? `interrupted, silent in ${milliseconds(cut.reaction_ms)}` : "interrupted"),
    ...turn.pauses.map((pause) => h("span.badge", {}, `paused ${milliseconds(pause.end_ms - pause.start_ms)}: ${pause.cause}`)),
  ].filter(Boolean);
  return [
    h("p.text", { dir: "auto" },
      heard || rest ? h("span.heard", {}, heard) : h("span.muted", {}, turn.role === "agent" ? "(nothing heard)" : "(no words recognized)"),
      rest && h("del.unheard", {}, h("span.only-read", {}, " (not heard: "), rest, h("span.only-read", {}, ")"))),
    facts.length ? h("div.turn-facts", {}, facts) : null,
  ].filter(Boolean);
}

function toolCall({ name, arguments: given, output, ms }, isLost) {
  const done = output !== null && output !== undefined;
  return [
    h("div.tool-line", {},
      h("code.tool-title", {}, name),
      done ? h("span.muted.number", {}, milliseconds(ms)) : h("span.badge.warn", {}, isLost ? "no result" : "no result yet")),
    given && folded("Arguments", pretty(given)),
    done && folded("Output", pretty(output)),
  ].filter(Boolean);
}

function folded(label, text) {
  if (text.length <= OPEN_CHARS && !text.includes("\n")) {
    return h("div.io", {}, h("span.io-name", {}, label), h("code", { dir: "auto" }, text));
  }
  return h("details.io", {}, h("summary", {}, h("span.io-name", {}, label), h("code", {}, `${text.slice(0, 80)}…`)), h("pre", { dir: "auto" }, text));
}

function pretty(text) {
  try {
    const value = JSON.parse(text);
    if (typeof value !== "object" || value === null) return text;
    const short = JSON.stringify(value);
    return short.length <= OPEN_CHARS ? short : JSON.stringify(value, null, 2);
  } catch {
    return text;
  }
}
