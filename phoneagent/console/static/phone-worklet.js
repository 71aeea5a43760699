// The audio thread of the browser's phone: microphone to frames of 20 ms, the agent's audio to the loudspeaker.
//
// It runs in a hidden tab too, where a page's timers do not, so the marks are timed here.

import { FRAME, Line, RATE, Resampler, encode, level } from "./phone-audio.js";
import { Playout } from "./phone-playout.js";

class Phone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.down = new Resampler(sampleRate, RATE);
    this.up = new Resampler(RATE, sampleRate);
    this.filterSeconds = this.up.half / RATE;
    this.playout = new Playout();
    this.toAgent = new Line();
    this.toEar = new Line();
    this.frame = new Float32Array(FRAME);
    this.filled = 0;
    this.heard = new Float32Array(FRAME); // for the level display
    this.heardCount = 0;
    this.open = true;
    this.latency = 0; // seconds from here to the ear
    this.running = true;
    this.arrivedAt = null; // when audio arrived after silence
    this.port.onmessage = ({ data }) => this.#receive(data);
  }

  #receive(data) {
    if (data.media !== undefined) {
      if (this.playout.queued === 0) this.arrivedAt = currentTime;
      this.playout.media(data.media);
    } else if (data.mark !== undefined) {
      this.playout.mark(data.mark);
    } else if (data.clear) {
      this.#echo(this.playout.clear());
    } else if (data.line !== undefined) {
      this.toAgent.set(data.line);
      this.toEar.set(data.line);
    } else if (data.open !== undefined) {
      this.open = data.open;
    } else if (data.latency !== undefined) {
      this.latency = data.latency;
    } else if (data.stop) {
      this.running = false;
    }
  }

  process([input], [output]) {
    const size = output[0].length;
    this.#listen(input, size);
    this.#play(output, size);
    this.#echo(this.playout.due(currentTime));
    return this.running;
  }

  #listen(input, size) {
    const mono = new Float32Array(size);
    for (const channel of input) {
      for (let index = 0; index < size; index += 1) mono[index] += channel[index] / input.length;
    }
    this.down.push(mono);
    let count;
    do {
      const rest = this.frame.subarray(this.filled);
      count = this.down.pull(rest);
      this.filled += count;
      if (this.filled === FRAME) this.#send();
    } while (count > 0);
  }

  #send() {
    this.filled = 0;
    if (!this.open) this.frame.fill(0);
    const said = level(this.frame);
    this.toAgent.pass(this.frame);
    const frame = Uint8Array.from(this.frame, encode);
    this.port.postMessage({ frame, said, heard: level(this.heard) }, [frame.buffer]);
  }

  #play(output, size) {
    const samples = new Float32Array(this.up.needs(size));
    const moment = currentTime + this.filterSeconds + this.latency;
    if (this.playout.take(samples, moment) > 0 && this.arrivedAt !== null) {
      this.port.postMessage({ wait: moment - this.arrivedAt });
      this.arrivedAt = null;
    }
    this.toEar.pass(samples);
    for (const sample of samples) {
      this.heard[this.heardCount] = sample;
      this.heardCount = (this.heardCount + 1) % FRAME;
    }
    this.up.push(samples);
    this.up.pull(output[0]);
    for (const channel of output.slice(1)) channel.set(output[0]);
  }

  #echo(names) {
    for (const mark of names) this.port.postMessage({ mark });
  }
}

registerProcessor("phone", Phone);
