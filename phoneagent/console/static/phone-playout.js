// The agent's audio on its way to the ear, as Twilio plays it. A mark comes back once the audio before it was heard. A
// clear drops the queued audio and returns all marks. Pure: moments are arguments, in seconds.

import { RATE, decode } from "./phone-audio.js";

export const MAX_QUEUED = 3600 * RATE; // an hour, as the simulated Twilio keeps
export const MAX_MARKS = 200_000;
const FIRST_WAIT = 0.04 * RATE; // samples to wait for before silence ends
const LONGEST_WAIT = 0.2 * RATE;
const CUT_SHORT = 0.25 * RATE; // silence shorter than this was a gap in the network, not a pause

export class Playout {
  constructor() {
    this.received = 0; // samples so far: the position of the next one
    this.taken = 0;
    this.underruns = 0;
    this.wait = FIRST_WAIT;
    this.chunks = [];
    this.offset = 0; // in the first chunk
    this.marks = []; // {name, position, due}; due is null until the audio before it was taken, name is passed through
    this.heardUntil = 0;
    this.holding = true;
    this.waited = 0;
    this.silent = Infinity; // samples since the latest audio
  }

  get queued() {
    return this.received - this.taken;
  }

  /** Queue µ-law bytes. */
  media(bytes) {
    if (bytes.length === 0 || this.queued + bytes.length > MAX_QUEUED) return;
    if (this.holding && this.queued === 0 && this.silent < CUT_SHORT) {
      this.underruns += 1;
      this.wait = Math.min(2 * this.wait, LONGEST_WAIT);
    }
    this.chunks.push(bytes);
    this.received += bytes.length;
  }

  mark(name) {
    if (this.marks.length >= MAX_MARKS) return;
    this.marks.push({ name, position: this.received, due: this.queued === 0 ? this.heardUntil : null });
  }

  /** Drop the audio that was not taken. Return the names of all pending marks, which are due at once. */
  clear() {
    this.chunks = [];
    this.offset = 0;
    this.taken = this.received;
    this.holding = true;
    this.waited = 0;
    this.silent = Infinity; // the next audio is another answer, not the rest of this one
    const names = this.marks.map((mark) => mark.name);
    this.marks = [];
    return names;
  }

  /** Fill `output`, whose first sample is heard at `moment`, and pad it with silence. Return how much is audio. */
  take(output, moment) {
    output.fill(0);
    if (this.holding) {
      if (this.queued === 0 || (this.queued < this.wait && this.waited < this.wait)) {
        if (this.queued > 0) this.waited += output.length;
        this.silent += output.length;
        return 0;
      }
      this.holding = false;
      this.waited = 0;
    }
    let count = 0;
    while (count < output.length && this.chunks.length > 0) {
      const chunk = this.chunks[0];
      output[count] = decode(chunk[this.offset]);
      count += 1;
      this.offset += 1;
      if (this.offset === chunk.length) {
        this.chunks.shift();
        this.offset = 0;
      }
    }
    for (const mark of this.marks) {
      if (mark.position > this.taken + count) break;
      mark.due ??= moment + (mark.position - this.taken) / RATE;
    }
    this.taken += count;
    if (count > 0) this.heardUntil = moment + count / RATE;
    this.silent = count > 0 ? 0 : this.silent + output.length;
    if (count < output.length) this.holding = true;
    return count;
  }

  /** Return the names of the marks that are due at `now`, in order, each once. */
  due(now) {
    let count = 0;
    while (count < this.marks.length && this.marks[count].due !== null && this.marks[count].due <= now) count += 1;
    return this.marks.splice(0, count).map((mark) => mark.name);
  }
}
