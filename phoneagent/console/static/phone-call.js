// One call from the browser. It carries out the server's TwiML as Twilio does for a phone.

import { Refused, base, request } from "./common.js";
import { Writer, base64Of, newSid, read } from "./phone-stream.js";

const CALLS = "/console/phone/calls";
const MEDIA = "/console/phone/media/";

const WAITS_MS = [500, 1000, 2000, 4000, 7000]; // Twilio retries up to five times, within 15 s
const ASLEEP_MS = 10_000; // after this long without the microphone, the computer was asleep, and the call is over
const MAX_BEHIND_BYTES = 64 * 1024; // a socket that is this far behind loses frames, as Twilio's does
const LAST_FRAME_MS = 60; // the end of a turn is sent this long after its last frame, on another connection
const MAX_DOCUMENTS = 100; // of TwiML in one call
const MAX_PAUSE_SECONDS = 60;

const OVER = "The call is over.";
const NO_SOCKET = "The server did not open the call's media socket.";
const REFUSALS = {
  busy: "Busy. The server has too many calls, or this caller has.",
  rejected: "Rejected. A list of callers does not allow this caller ID.",
};

export class BrowserCall {
  /** `onState(state, words)` gets dialing, up, waiting, over. `onSid(sid)` runs once the call has one. */
  constructor({ caller, called, turns, sound, onState, onSid }) {
    this.parties = { caller, called, turns };
    this.turns = Promise.resolve();
    this.sound = sound;
    this.onState = onState;
    this.onSid = onSid;
    this.sid = null;
    this.socket = null;
    this.writer = null;
    this.over = false;
    this.words = OVER;
    this.hungUp = new Promise((resolve) => { this.hangUpNow = resolve; });
  }

  /** Run the call; return when it is over. */
  async run() {
    this.awakeAt = Date.now();
    this.sound.onFrame = ({ frame, said, heard }) => this.#speak(frame, said, heard);
    this.sound.onMark = ({ name, streamSid }) => {
      if (streamSid === this.writer?.streamSid) this.#send((writer) => writer.mark(name));
    };
    this.onState("dialing", "Calling…");
    try {
      const asked = request(CALLS, { method: "POST", body: this.parties });
      const begun = await Promise.race([asked, this.hungUp]);
      if (this.over) asked.then((late) => this.#report(late.call_sid), () => {}); // nothing will come of that call
      else this.onSid((this.sid = begun.call_sid));
      let twiml = this.over ? null : begun.twiml;
      for (let count = 0; twiml !== null && !this.over && count < MAX_DOCUMENTS; count += 1) {
        twiml = await this.#execute(twiml);
      }
    } catch (error) {
      if (!this.over) this.words = error instanceof Refused ? error.message : "The server does not answer.";
    }
    this.#end();
    this.onState("over", this.words);
  }

  hangUp(words = "You have hung up.") {
    if (this.over) return;
    this.words = words;
    this.#send((writer) => writer.stop());
    this.#end();
  }

  press(key) {
    this.#send((writer) => writer.dtmf(key));
  }

  /** Begin or end a turn of the caller, if turns are manual. */
  turn(turn) {
    const late = turn === "end" ? LAST_FRAME_MS : 0;
    this.turns = this.turns
      .then(() => this.#wait(late))
      .then(() => this.over || request(`${CALLS}/${this.sid}/turn`, { method: "POST", body: { turn } }))
      .catch((error) => this.onProblem(`The turn did not reach the agent: ${error.message}`));
  }

  onLevels() {}

  onProblem() {}

  // --- TwiML ---

  /** Carry out a document; return the next document, null at the end of the call. */
  async #execute(twiml) {
    const document = new DOMParser().parseFromString(twiml, "application/xml");
    for (const verb of document.documentElement.children) {
      if (this.over) return null;
      const action = verb.getAttribute("action");
      switch (verb.tagName) {
        case "Connect":
          await this.#stream(verb.querySelector("Stream"));
          if (action && !this.over) return this.#ask(action);
          break;
        case "Redirect":
          return this.#ask(verb.textContent);
        case "Pause":
          await this.#wait(1000 * Math.min(Number(verb.getAttribute("length") ?? 1), MAX_PAUSE_SECONDS));
          break;
        case "Say":
          this.words = verb.textContent;
          break;
        case "Dial":
          this.words = `A phone would be connected with ${verb.textContent.trim() || "another party"} now.`;
          return null;
        case "Reject":
          this.words = REFUSALS[verb.getAttribute("reason")] ?? REFUSALS.rejected;
          return null;
        case "Hangup":
          return null;
        default: // verbs that only a carrier can carry out
      }
    }
    return null;
  }

  /** Ask for the next TwiML. A server that restarts is asked again. */
  async #ask(url) {
    this.onState("waiting", "Reconnecting…");
    for (const wait of [...WAITS_MS, null]) {
      try {
        const body = { ...this.parties, status: "in-progress", url };
        const asked = request(`${CALLS}/${this.sid}`, { method: "POST", body });
        return (await Promise.race([asked, this.hungUp]))?.twiml ?? null;
      } catch (error) {
        const comesBack = !(error instanceof Refused) || error.status >= 500;
        if (!comesBack || wait === null || this.over) throw error;
      }
      await this.#wait(wait);
      if (this.over) return null;
    }
    return null;
  }

  async #wait(ms) {
    await Promise.race([this.hungUp, new Promise((resolve) => { setTimeout(resolve, ms); })]);
  }

  // --- the media stream ---

  /** Open a stream, and return when it is gone. */
  async #stream(element) {
    const parameters = {};
    for (const each of element.querySelectorAll("Parameter")) {
      parameters[each.getAttribute("name")] = each.getAttribute("value");
    }
    const token = element.getAttribute("url").split("/").pop();
    const streamSid = newSid("MZ");
    const writer = new Writer(streamSid, this.sid);
    this.words = NO_SOCKET;
    const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}${base}${MEDIA}${token}`);
    await new Promise((resolve) => {
      socket.addEventListener("open", () => {
        if (this.over) {
          socket.close(1000);
          return;
        }
        this.socket = socket;
        this.writer = writer;
        this.words = OVER;
        socket.send(writer.connected());
        socket.send(writer.start(parameters));
        this.onState("up", "Connected");
      });
      socket.addEventListener("message", ({ data }) => this.#hear(read(data, streamSid)));
      socket.addEventListener("close", resolve);
      this.hungUp.then(resolve);
    });
    this.socket = this.writer = null;
    this.sound.clear(); // queued audio is never heard, and its marks do not come back
    if (Date.now() - this.awakeAt > ASLEEP_MS) this.hangUp("This computer slept, so the call is over.");
  }

  #hear(message) {
    if (message === null || this.socket === null) return;
    if (message.media) this.sound.play(message.media);
    else if (message.mark) this.sound.mark(message.mark, this.writer.streamSid);
    else this.sound.clear();
  }

  #speak(frame, said, heard) {
    const now = Date.now();
    if (now - this.awakeAt > ASLEEP_MS) this.hangUp("This computer slept, so the call is over.");
    this.awakeAt = now;
    this.onLevels(said, heard);
    if (this.socket !== null && this.socket.bufferedAmount < MAX_BEHIND_BYTES) {
      this.#send((writer) => writer.media(base64Of(frame)));
    }
  }

  #send(compose) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(compose(this.writer));
  }

  /** End the call on this side, and report it as Twilio does. */
  #end() {
    if (this.over) return;
    this.over = true;
    this.socket?.close(1000);
    this.socket = null;
    this.hangUpNow();
    if (this.sid !== null) this.#report(this.sid);
  }

  #report(sid) {
    fetch(`${base}${CALLS}/${sid}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...this.parties, status: "completed" }),
      keepalive: true, // the page may be closing
    }).catch(() => {}); // if the server is gone, so is the call
  }
}
