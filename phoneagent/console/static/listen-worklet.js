// Plays two tracks: the caller is heard more on the left, the agent more on the right.

const FIRST_SECONDS = 0.12; // of audio to wait for before a track begins, or continues after it ran dry
const MOST_SECONDS = 1; // with more than this the track has fallen behind, and skips
const NEAR = 0.9;
const FAR = 0.45;

class Track {
  #rate; #kept = []; #count = 0; #at = 0; #plays = false;

  constructor(rate) {
    this.#rate = rate;
  }

  add(samples) {
    this.#kept.push(samples);
    this.#count += samples.length;
    while (this.#count > MOST_SECONDS * this.#rate) this.#drop();
    if (this.#count >= FIRST_SECONDS * this.#rate) this.#plays = true;
  }

  /** The next sample at the output's rate, interpolated between two samples. */
  next(step) {
    if (!this.#plays) return 0;
    const here = Math.floor(this.#at);
    const now = this.#sample(here);
    const then = this.#sample(here + 1);
    if (now === undefined) {
      [this.#plays, this.#kept, this.#count, this.#at] = [false, [], 0, 0];
      return 0;
    }
    const mixed = now + ((then ?? now) - now) * (this.#at - here);
    this.#at += step;
    if (this.#at >= this.#kept[0].length) this.#drop();
    return mixed;
  }

  #sample(index) {
    const first = this.#kept[0];
    if (first === undefined || index < first.length) return first?.[index];
    return this.#kept[1]?.[index - first.length];
  }

  #drop() {
    const first = this.#kept.shift();
    this.#count -= first.length;
    this.#at = Math.max(0, this.#at - first.length);
  }
}

class Listen extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate } }) {
    super();
    this.step = rate / sampleRate;
    this.tracks = [new Track(rate), new Track(rate)];
    this.port.onmessage = ({ data: { track, samples } }) => this.tracks[track].add(samples);
  }

  process(inputs, [[left, right]]) {
    const [caller, agent] = this.tracks;
    for (let index = 0; index < left.length; index++) {
      const [one, other] = [caller.next(this.step), agent.next(this.step)];
      left[index] = one * NEAR + other * FAR;
      right[index] = one * FAR + other * NEAR;
    }
    return true;
  }
}

registerProcessor("listen", Listen);
