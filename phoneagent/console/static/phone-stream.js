// Twilio's Media Streams protocol from Twilio's side: the messages of a phone's media socket. Pure.

const FRAME_MS = 20;

/** The writer of one stream's messages. Numbers are strings, as Twilio sends them. */
export class Writer {
  constructor(streamSid, callSid) {
    this.streamSid = streamSid;
    this.callSid = callSid;
    this.sequence = 0;
    this.chunk = 0;
  }

  connected() {
    return JSON.stringify({ event: "connected", protocol: "Call", version: "1.0.0" });
  }

  start(customParameters) {
    const mediaFormat = { encoding: "audio/x-mulaw", sampleRate: 8000, channels: 1 };
    const { streamSid, callSid } = this;
    return this.#numbered("start", { streamSid, callSid, tracks: ["inbound"], mediaFormat, customParameters });
  }

  /** A frame of 20 ms, as base64. */
  media(payload) {
    this.chunk += 1;
    const timestamp = String((this.chunk - 1) * FRAME_MS);
    return this.#numbered("media", { track: "inbound", chunk: String(this.chunk), timestamp, payload });
  }

  dtmf(digit) {
    return this.#numbered("dtmf", { track: "inbound_track", digit });
  }

  mark(name) {
    return this.#numbered("mark", { name });
  }

  stop() {
    return this.#numbered("stop", { callSid: this.callSid });
  }

  #numbered(event, body) {
    this.sequence += 1;
    return JSON.stringify({ event, sequenceNumber: String(this.sequence), [event]: body, streamSid: this.streamSid });
  }
}

/** Return a message from the server: {media: bytes}, {mark: name} or {clear: true}; null for any other. */
export function read(text, streamSid) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    return null;
  }
  if (message?.streamSid !== streamSid) return null;
  if (message.event === "clear") return { clear: true };
  if (message.event === "mark" && typeof message.mark?.name === "string") return { mark: message.mark.name };
  if (message.event === "media" && typeof message.media?.payload === "string") {
    const media = bytesOf(message.media.payload);
    return media === null ? null : { media };
  }
  return null;
}

export function base64Of(bytes) {
  return btoa(String.fromCharCode(...bytes));
}

function bytesOf(payload) {
  try {
    return Uint8Array.from(atob(payload), (letter) => letter.charCodeAt(0));
  } catch {
    return null;
  }
}

/** Return a new sid in Twilio's form, such as MZ and 32 hexadecimal digits. */
export function newSid(prefix) {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return prefix + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
