// The story of one call, from its events or its record, on one clock: milliseconds since the call began.

import { now } from "./common.js";

export const SPEAKERS = ["caller", "agent", "callee"]; // the callee is the other person in a call between two people

const MAX_MARKS = 3000;
const SAME_MS = 400; // the times of an event and of its record differ by less than this

export class Story {
  turns = new Map(); // by item_id
  tools = new Map(); // by call_id
  marks = []; // everything else that happens at a moment: {kind, at_ms, …}
  answers = []; // {at_ms, latency_ms}
  usage = new Map(); // by model
  speaking = {}; // by role: the start of a turn whose words have not arrived
  total = null;
  endMs = null;
  version = 0;
  #startedAt;
  #offset = 0;

  constructor(startedAt) {
    this.#startedAt = new Date(startedAt).getTime();
  }

  get startedAt() {
    return this.#startedAt;
  }

  /** Take the record. For a live call it has turns in progress, which are not in any event. That of an ended one is final. */
  takeRecord(record, { live }) {
    this.version += 1;
    for (const turn of record.turns) {
      const known = this.turns.get(turn.item_id);
      if (live && known && !known.live) continue;
      this.turns.set(turn.item_id, { ...turn, live });
      if (live) this.speaking[turn.role] = null;
    }
    for (const tool of record.tool_calls) {
      const isDone = (this.tools.get(tool.call_id)?.output ?? null) !== null;
      if (!live || !isDone) this.tools.set(tool.call_id, tool);
    }
    for (const each of record.transfers ?? []) this.#transferred(each.at_ms, each);
    for (const message of record.messages) this.#mark("message", message.at_ms, { role: message.role, text: message.text });
    for (const answer of record.answers) this.#answer(answer);
    record.streams.slice(1).forEach((stream) => this.#mark("stream", stream.at_ms, { text: stream.stream_sid }));
    if (!live) {
      for (const turn of this.turns.values()) turn.live = false;
      this.speaking = {};
      this.usage = new Map(record.usage.map((each) => [each.model, each]));
      this.total = record.cost;
      this.endMs = record.duration_ms;
    }
  }

  takeEvent(event) {
    this.version += 1;
    const at = this.#offset + (event.at_ms ?? 0);
    switch (event.type) {
      case "call_started":
        // The call's clock begins with its first media stream, which is later than the webhook
        if (!event.resumed) this.#startedAt = new Date(event.at).getTime();
        this.#offset = event.resumed ? Math.max(0, new Date(event.at).getTime() - this.#startedAt) : 0;
        if (event.resumed) this.#mark("stream", this.#offset, { text: event.stream_sid });
        this.endMs = null;
        break;
      case "caller_spoke":
        this.speaking.caller = at;
        break;
      case "agent_answered":
        this.speaking.agent = at;
        this.#answer({ at_ms: at, latency_ms: event.latency_ms });
        break;
      case "turn_ended": {
        const { turn } = event;
        const move = (ms) => ms + this.#offset;
        this.turns.set(turn.item_id, {
          ...turn, start_ms: move(turn.start_ms), end_ms: move(turn.end_ms), live: false,
          pauses: turn.pauses.map((each) => ({ ...each, start_ms: move(each.start_ms), end_ms: move(each.end_ms) })),
        });
        this.speaking[turn.role] = null;
        break;
      }
      case "barge_in":
        this.#mark("barge_in", at, {
          item_id: event.item_id, reaction_ms: event.reaction_ms, heard_ms: event.audio_end_ms, said_ms: event.said_ms,
        });
        this.speaking.agent = null;
        break;
      case "agent_paused":
      case "agent_resumed":
        break; // the turn has its pauses
      case "tool_called":
        this.tools.set(event.call_id, {
          ...this.tools.get(event.call_id), call_id: event.call_id, name: event.name, arguments: event.arguments, at_ms: at,
        });
        break;
      case "tool_returned":
        this.tools.set(event.call_id, {
          at_ms: at - event.ms, arguments: "", ...this.tools.get(event.call_id), call_id: event.call_id,
          name: event.name, output: event.output, ms: event.ms,
        });
        break;
      case "message_added":
        this.#mark("message", at, { role: event.role, text: event.text });
        break;
      case "key_pressed":
        this.#mark("key", at, { text: event.digit });
        break;
      case "silence_filled":
        this.#mark("silence", at, { text: event.sound, ms: event.silent_ms });
        break;
      case "usage_reported":
        this.#use(event);
        break;
      case "trouble":
        this.#mark("trouble", at, { text: event.what });
        break;
      case "call_handed_over":
        this.#mark("handover", at, { text: event.reason });
        break;
      case "call_transferred": // it has only a date, because it belongs to no media stream
        this.#transferred(Math.max(0, new Date(event.at).getTime() - this.#startedAt), event);
        break;
      case "call_controlled":
        this.#mark("control", at, { text: event.operation });
        break;
      case "recording_changed":
        this.#recorded(at, event);
        break;
      case "call_ended":
        this.endMs = this.#offset + event.duration_ms;
        this.speaking = {};
        for (const turn of this.turns.values()) turn.live = false;
        break;
      default:
        this.#mark("other", at, { name: event.type, text: details(event) });
    }
  }

  #transferred(ms, { to_name, outcome, warm }) {
    this.#mark("transfer", ms, { text: `${to_name}: ${outcome}${warm ? ", announced" : ""}`, outcome });
  }

  #recorded(ms, { status, complete }) {
    const text = RECORDING[status] + (complete ? "" : ", not all of it was written");
    const last = this.marks.findLast((mark) => mark.kind === "recording");
    if (last?.status === status && status === "stopped") last.text = text; // it is told again when it is written
    else this.#mark("recording", ms, { text, status });
  }

  has(kind) {
    return this.marks.some((mark) => mark.kind === kind);
  }

  /** The length of the call so far. */
  length() {
    const known = Math.max(0, ...[...this.turns.values()].map((turn) => turn.end_ms), ...this.marks.map((mark) => mark.at_ms));
    return Math.max(this.endMs ?? now() - this.#startedAt, known, 1000);
  }

  /** All that happened, in order: {id, kind, at_ms, …}. An agent's turn has its latency, a cut one its barge-in. */
  entries() {
    const found = [];
    for (const turn of this.turns.values()) {
      const cut = this.marks.find((mark) => mark.kind === "barge_in" && mark.item_id === turn.item_id);
      found.push({ kind: turn.role, id: `t${turn.item_id}`, at_ms: turn.start_ms, turn, cut, latency_ms: this.#latencyOf(turn) });
    }
    for (const tool of this.tools.values()) {
      const isLost = this.endMs !== null && (tool.output ?? null) === null; // the call ended before its result
      found.push({ kind: "tool", id: `f${tool.call_id}`, at_ms: tool.at_ms, tool, isLost });
    }
    for (const mark of this.marks) if (mark.kind !== "barge_in") found.push({ ...mark, id: mark.id });
    for (const role of SPEAKERS) {
      const since = this.speaking[role] ?? null;
      const told = [...this.turns.values()].some((turn) => turn.role === role && turn.end_ms > since);
      if (since !== null && !told) found.push({ kind: role, id: `s${role}`, at_ms: since, turn: null });
    }
    found.sort((a, b) => a.at_ms - b.at_ms);
    let agent = null;
    for (const entry of found) {
      if (entry.kind !== "agent" || !entry.turn?.agent) continue;
      entry.handedFrom = agent !== null && agent !== entry.turn.agent ? agent : null;
      agent = entry.turn.agent;
    }
    return found;
  }

  #latencyOf(turn) {
    if (turn.role !== "agent") return null;
    let best = null;
    for (const answer of this.answers) {
      const far = Math.abs(answer.at_ms - turn.start_ms);
      if (far < 1500 && (best === null || far < best.far)) best = { far, latency_ms: answer.latency_ms };
    }
    return best?.latency_ms ?? null;
  }

  #answer({ at_ms, latency_ms }) {
    const known = this.answers.some((each) => each.latency_ms === latency_ms && Math.abs(each.at_ms - at_ms) < SAME_MS);
    if (!known) this.answers.push({ at_ms, latency_ms });
  }

  #mark(kind, at_ms, rest) {
    const known = this.marks.some(
      (mark) => mark.kind === kind && mark.text === rest.text && mark.item_id === rest.item_id && Math.abs(mark.at_ms - at_ms) < (kind === "key" ? 1 : SAME_MS),
    );
    if (known || this.marks.length >= MAX_MARKS) return;
    this.marks.push({ kind, at_ms, id: `m${kind}${at_ms}-${this.marks.length}`, ...rest });
  }

  #reported = new Set();

  #use({ at_ms, number, model, usage, cost, total }) {
    this.total = total;
    const report = `${this.#offset}-${number}-${at_ms}`;
    if (this.#reported.has(report)) return; // a stream that starts over repeats it
    this.#reported.add(report);
    const sum = { ...(this.usage.get(model) ?? { model, cost: { usd: "0", at_least: false } }) };
    for (const [kind, count] of Object.entries(usage)) sum[kind] = (sum[kind] ?? 0) + count;
    sum.cost = { usd: String(Number(sum.cost.usd) + Number(cost.usd)), at_least: sum.cost.at_least || cost.at_least };
    this.usage.set(model, sum);
  }
}

const RECORDING = { "in-progress": "started", paused: "paused", stopped: "stopped", completed: "ended with the call" };

function details(event) {
  const { type, at, at_ms, call_sid, ...rest } = event;
  return Object.entries(rest).map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`).join(" · ");
}

/** The heard and the unheard part of a turn's words. */
export function parts(turn) {
  if (turn.role !== "agent" || turn.live) return [turn.heard_text || turn.text, ""];
  if (turn.text.startsWith(turn.heard_text)) return [turn.heard_text, turn.text.slice(turn.heard_text.length)];
  return [turn.heard_text, turn.text === turn.heard_text ? "" : ` ${turn.text}`];
}

export function percentile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] : null;
}

export const grade = (ms) => (ms < 800 ? "good" : ms < 1500 ? "fair" : "poor");
